//! What belongs to a user: profile, account data, tags, filters, push rules, presence, receipts.

mod account_data;
mod filter;
mod ignored_users;
mod invite_permission;
mod openid;
mod presence;
mod profile;
mod push_rules;
mod receipts;
mod tags;
mod typing;
mod user_directory;
