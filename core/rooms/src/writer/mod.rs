//! The only way to change a room: one task for each active room, a bounded mailbox, one commit for all
//! that it finds there.
