//! The table of all settings: what the example file and the reference page say.

/// A section of the file.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// Its name, in brackets in the file.
    pub name: &'static str,
    /// What it is about, one or two sentences.
    pub about: &'static str,
    /// Its settings, in the order of the file.
    pub fields: &'static [Field],
}

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Section and name, with a dot between them. A section's own name may have dots.
    pub key: &'static str,
    /// The type of its values.
    pub kind: Kind,
    /// What it does: plain sentences, with units.
    pub about: &'static str,
    /// A value to show, in TOML, for a setting that is unset by default.
    pub example: Option<&'static str>,
}

/// The type of a setting's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Text,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A whole number.
    Integer,
    /// `true` or `false`.
    Boolean,
    /// A list of texts.
    TextList,
    /// A list of whole numbers.
    IntegerList,
    /// How often: `per_second` in the long run, up to `burst` at once.
    Rate,
}

impl Kind {
    /// The type's name for people.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Text => "text".to_owned(),
            Self::OneOf(words) => {
                let words: Vec<_> = words.iter().map(|word| format!("`\"{word}\"`")).collect();
                format!("one of {}", words.join(", "))
            }
            Self::Integer => "whole number".to_owned(),
            Self::Boolean => "truth value, `true` or `false`".to_owned(),
            Self::TextList => "list of texts".to_owned(),
            Self::IntegerList => "list of whole numbers".to_owned(),
            Self::Rate => "rate, `{ per_second = NUMBER, burst = WHOLE NUMBER }`".to_owned(),
        }
    }
}

const fn field(key: &'static str, kind: Kind, about: &'static str) -> Field {
    Field { key, kind, about, example: None }
}

const fn unset(key: &'static str, kind: Kind, example: &'static str, about: &'static str) -> Field {
    Field { key, kind, about, example: Some(example) }
}

/// Every setting, over all sections.
pub fn all() -> impl Iterator<Item = &'static Field> {
    SECTIONS.iter().flat_map(|section| section.fields)
}

/// The setting with this key.
#[must_use]
pub fn find(key: &str) -> Option<&'static Field> {
    all().find(|field| field.key == key)
}

/// Every section, in the order of the file.
pub const SECTIONS: &[Section] = &[
    SERVER,
    LISTEN,
    CLIENT,
    CALLS,
    HTTP,
    RATE_LIMITS,
    RATE_LIMITS_LOGIN,
    RATE_LIMITS_MESSAGE,
    RATE_LIMITS_MEMBERSHIP,
    RATE_LIMITS_UPLOAD,
    RATE_LIMITS_PREVIEW,
    RATE_LIMITS_GENERAL,
    USERS,
    ARGON2,
    ROOMS,
    DELAYED_EVENTS,
    E2EE,
    MEDIA,
    MEDIA_BUCKET,
    MEDIA_PREVIEWS,
    PUSH,
    SYNC,
    FEDERATION,
    STORE,
    LOG,
];

const SERVER: Section = Section {
    name: "server",
    about: "Who this server is.",
    fields: &[
        field(
            "server.name",
            Kind::Text,
            "The name that ends every user ID: @alice:NAME. Set it before the first start: it is part \
             of every user, room and event, and a store made for one name refuses to open under \
             another. Usually the organization's domain.",
        ),
        field(
            "server.data_dir",
            Kind::Text,
            "The folder of everything that the server keeps: the store, the signing key (signing.key) \
             and the socket for `hearth user` and others (admin.sock). Relative to the folder of this file. Only \
             the server's user may read it; back it up as a whole while the server is stopped.",
        ),
    ],
};

const LISTEN: Section = Section {
    name: "listen",
    about: "Where and how the server accepts connections. To serve more than this machine, give it a \
            certificate, or put a reverse proxy with TLS in front of it. Every address serves \
            everything: clients and other servers.",
    fields: &[
        field(
            "listen.addresses",
            Kind::TextList,
            "Addresses with ports, for plain HTTP. IPv6 is written [::1]:8008. Port 0 takes any free port.",
        ),
        field(
            "listen.tls_addresses",
            Kind::TextList,
            "Addresses with ports for HTTPS, such as 0.0.0.0:8448, where other servers look first.",
        ),
        unset(
            "listen.tls_certificate",
            Kind::Text,
            "\"/etc/letsencrypt/live/example.org/fullchain.pem\"",
            "The file with the certificate for HTTPS, in PEM, followed by those of the authorities \
             between it and the root. It must be for the server's name, or for the name that \
             federation.well_known delegates to. When the file changes, it is read again within a \
             minute, at once upon SIGHUP. Relative to the folder of this file.",
        ),
        unset(
            "listen.tls_key",
            Kind::Text,
            "\"/etc/letsencrypt/live/example.org/privkey.pem\"",
            "The file with the certificate's private key, in PEM; read again like the certificate.",
        ),
        field(
            "listen.max_connections",
            Kind::Integer,
            "Connections open at a time, over all addresses. Further ones wait in the operating \
             system's queue. Every client waiting for a sync holds one; the limit of open files is \
             raised as far as the operating system allows.",
        ),
        field(
            "listen.header_timeout_s",
            Kind::Integer,
            "Seconds that a client may take to send the head of a request, and that a connection \
             may stay open without one. At least 1.",
        ),
        field(
            "listen.shutdown_timeout_s",
            Kind::Integer,
            "Seconds that running requests get to end when the server stops. Waiting syncs are \
             answered at once.",
        ),
    ],
};

const CLIENT: Section = Section {
    name: "client",
    about: "What clients are told.",
    fields: &[
        unset(
            "client.base_url",
            Kind::Text,
            "\"https://matrix.example.org\"",
            "The address under which clients reach this server. When set, /.well-known/matrix/client \
             names it, so that users need to type only the server name.",
        ),
        unset(
            "client.support_email",
            Kind::Text,
            "\"admin@example.org\"",
            "An e-mail address of the administrators, which /.well-known/matrix/support names.",
        ),
        unset(
            "client.support_user",
            Kind::Text,
            "\"@admin:example.org\"",
            "A Matrix user who administers this server, whom /.well-known/matrix/support names.",
        ),
        unset(
            "client.support_page",
            Kind::Text,
            "\"https://example.org/help\"",
            "A page with help for users, which /.well-known/matrix/support names.",
        ),
        field(
            "client.alias_creation",
            Kind::OneOf(&["everyone", "admins"]),
            "Who may make room aliases in this server's name.",
        ),
    ],
};

const CALLS: Section = Section {
    name: "client.calls",
    about: "Servers that carry calls. Two people's calls need a TURN server unless both can reach each other; \
            calls over MatrixRTC, such as Element Call's, need a LiveKit server with its service for Matrix.",
    fields: &[
        field(
            "client.calls.turn_uris",
            Kind::TextList,
            "URIs of TURN servers, such as turns:turn.example.org?transport=tcp. They need either the shared \
             secret or the user name and password below.",
        ),
        unset(
            "client.calls.turn_shared_secret",
            Kind::Text,
            "\"the static-auth-secret of coturn\"",
            "The secret that the TURN servers share with this one (coturn: use-auth-secret). Each user then gets \
             credentials of their own, which expire.",
        ),
        unset(
            "client.calls.turn_username",
            Kind::Text,
            "\"matrix\"",
            "The user name that everybody gets where there is no shared secret.",
        ),
        unset(
            "client.calls.turn_password",
            Kind::Text,
            "\"a password that every user learns\"",
            "The password of that user name.",
        ),
        field(
            "client.calls.turn_lifetime_s",
            Kind::Integer,
            "Seconds for which clients use the credentials before they ask for others; with a shared secret they \
             are good for no longer.",
        ),
        field(
            "client.calls.turn_for_guests",
            Kind::Boolean,
            "Whether guests get credentials for the TURN servers, too.",
        ),
        field(
            "client.calls.livekit_service_urls",
            Kind::TextList,
            "URLs of services that give Matrix users access to LiveKit (lk-jwt-service), such as \
             https://livekit.example.org/. The service asks this server who somebody is, by federation, which \
             must be on.",
        ),
    ],
};

const HTTP: Section = Section {
    name: "http",
    about: "How requests are bounded.",
    fields: &[
        field(
            "http.max_json_bytes",
            Kind::Integer,
            "The greatest size of a JSON request body in bytes; larger ones are refused with 413. At \
             least 65536, the size of an event.",
        ),
        field(
            "http.body_timeout_s",
            Kind::Integer,
            "Seconds that the body of a request may take to arrive.",
        ),
        field(
            "http.max_in_flight",
            Kind::Integer,
            "Requests worked on at once, waiting syncs not counted; further ones are refused with 429.",
        ),
        field(
            "http.max_long_polls",
            Kind::Integer,
            "Syncs waiting at once; further ones are refused with 429.",
        ),
        field(
            "http.trusted_proxies",
            Kind::TextList,
            "Addresses or networks of reverse proxies, such as 127.0.0.1 or 10.0.0.0/8, whose \
             X-Forwarded-For header names the client's address. From anybody else the header is \
             ignored. Set it behind a proxy, or all clients share one address's rate limits.",
        ),
    ],
};

const RATE_LIMITS: Section = Section {
    name: "http.rate_limits",
    about: "How often users and client addresses may ask; whoever asks more often gets 429 with the \
            time to wait.",
    fields: &[
        field("http.rate_limits.enabled", Kind::Boolean, "Whether requests are limited at all."),
        field(
            "http.rate_limits.max_tracked",
            Kind::Integer,
            "Users and addresses remembered at once, at about 32 bytes each; those idle longest are \
             forgotten first. At least 1024.",
        ),
    ],
};

/// The two settings of one class of endpoints.
macro_rules! rate_class {
    ($name:ident, $section:literal, $about:literal) => {
        const $name: Section = Section {
            name: concat!("http.rate_limits.", $section),
            about: $about,
            fields: &[
                field(
                    concat!("http.rate_limits.", $section, ".user"),
                    Kind::Rate,
                    "For each user: requests per second in the long run, and how many may come at \
                     once after a pause.",
                ),
                field(
                    concat!("http.rate_limits.", $section, ".address"),
                    Kind::Rate,
                    "For each client address (IPv6: each /64 network): the same.",
                ),
            ],
        };
    };
}

rate_class!(
    RATE_LIMITS_LOGIN,
    "login",
    "Login, registration and whatever else guesses at passwords and tokens."
);
rate_class!(RATE_LIMITS_MESSAGE, "message", "Events sent into rooms.");
rate_class!(RATE_LIMITS_MEMBERSHIP, "membership", "Rooms made, joined and invited to.");
rate_class!(RATE_LIMITS_UPLOAD, "upload", "Content uploaded.");
rate_class!(
    RATE_LIMITS_PREVIEW,
    "preview",
    "Previews of pages that users link to, which this server reads."
);
rate_class!(
    RATE_LIMITS_GENERAL,
    "general",
    "Everything else that the specification marks as rate-limited."
);

const USERS: Section = Section {
    name: "users",
    about: "Accounts, registration, sessions and presence.",
    fields: &[
        field(
            "users.open_registration",
            Kind::Boolean,
            "Whether anybody who reaches this server may make an account. When false, accounts are \
             made by `hearth user create`, with a registration token, or with the shared secret.",
        ),
        field(
            "users.allow_guests",
            Kind::Boolean,
            "Whether anybody who reaches this server may have a guest account: one without a password, \
             which may enter only rooms that are open to guests, and talk there.",
        ),
        field(
            "users.registration_tokens",
            Kind::TextList,
            "Tokens whose holders may each make accounts, without limit of uses. 1 to 64 letters, \
             digits, and any of ._~- each.",
        ),
        unset(
            "users.registration_shared_secret",
            Kind::Text,
            "\"at least eight characters\"",
            "The secret that lets tools make accounts at /_synapse/admin/v1/register. When unset, that \
             address does not exist.",
        ),
        field(
            "users.password_min_length",
            Kind::Integer,
            "The least number of characters of a new password, 1 to 128.",
        ),
        field(
            "users.access_token_lifetime_s",
            Kind::Integer,
            "Seconds that an access token lives if its client can refresh it. At least 60.",
        ),
        field(
            "users.unrefreshable_token_lifetime_s",
            Kind::Integer,
            "Seconds that an access token lives if its client cannot refresh it. 0: until logout.",
        ),
        field(
            "users.refresh_token_lifetime_s",
            Kind::Integer,
            "Seconds that an unused refresh token lives. 0: until logout.",
        ),
        field(
            "users.login_token_enabled",
            Kind::Boolean,
            "Whether a logged-in client may get a token that logs another client in.",
        ),
        field("users.presence_enabled", Kind::Boolean, "Whether users see who is online."),
        field(
            "users.search_all_users",
            Kind::Boolean,
            "Whether the user directory shows every user of this server to each other, rather than \
             only those who share a room or are in a public one.",
        ),
    ],
};

const ARGON2: Section = Section {
    name: "users.argon2",
    about: "What hashing a password costs (argon2id). Changes apply to passwords set afterwards.",
    fields: &[
        field("users.argon2.memory_kib", Kind::Integer, "Memory of one hash in KiB."),
        field("users.argon2.iterations", Kind::Integer, "Passes over that memory."),
        field("users.argon2.parallelism", Kind::Integer, "Lanes of one hash."),
        field(
            "users.argon2.concurrency",
            Kind::Integer,
            "Hashes computed at the same time, 1 to 64; further logins wait. Bounds memory and CPU \
             under a storm of logins.",
        ),
    ],
};

const ROOMS: Section = Section {
    name: "rooms",
    about: "How rooms are made and kept.",
    fields: &[
        field(
            "rooms.default_version",
            Kind::Text,
            "The version of rooms whose creator does not ask for one, \"6\" to \"12\".",
        ),
        field(
            "rooms.cache_mib",
            Kind::Integer,
            "Memory for recently used events and state, in MiB, over all rooms.",
        ),
        field(
            "rooms.max_active_rooms",
            Kind::Integer,
            "Rooms that may be written to at the same time, at least 1. A room that nobody has \
             written to for five minutes does not count.",
        ),
        field(
            "rooms.allow_publishing",
            Kind::Boolean,
            "Whether users may list rooms that they administer in the public directory.",
        ),
    ],
};

const DELAYED_EVENTS: Section = Section {
    name: "delayed_events",
    about: "Events that clients leave with the server, to be sent later (MSC4140): calls over MatrixRTC end by \
            them when a client is lost.",
    fields: &[
        field(
            "delayed_events.max_delay_s",
            Kind::Integer,
            "Seconds by which an event may be delayed at most. 0: there are no delayed events.",
        ),
        field(
            "delayed_events.max_scheduled",
            Kind::Integer,
            "Events that one user may have scheduled at a time, 1 to 1000; further ones get 429.",
        ),
    ],
};

const MEDIA: Section = Section {
    name: "media",
    about: "What users upload: pictures, files, avatars. The bytes are kept in the folder media of server.data_dir, \
            the same bytes once.",
    fields: &[
        field(
            "media.max_upload_bytes",
            Kind::Integer,
            "Greatest size of one upload in bytes. Larger ones get 413. A reverse proxy in front may have a smaller \
             limit of its own.",
        ),
        field(
            "media.upload_timeout_s",
            Kind::Integer,
            "Longest time that one upload may take, in seconds. One that stands still ends after \
             http.body_timeout_s.",
        ),
        field(
            "media.user_quota_bytes",
            Kind::Integer,
            "Bytes that one user may have uploaded altogether; further uploads get 403. What several users uploaded \
             counts for each of them. 0: no limit.",
        ),
        field(
            "media.unused_uri_lifetime_s",
            Kind::Integer,
            "How long a content URI that a client made for a later upload can be used, in seconds.",
        ),
        field(
            "media.max_remote_bytes",
            Kind::Integer,
            "Greatest size of content that is fetched from another server, in bytes.",
        ),
        field(
            "media.remote_timeout_s",
            Kind::Integer,
            "Longest time that fetching content from another server may take, in seconds.",
        ),
        field(
            "media.max_thumbnail_pixels",
            Kind::Integer,
            "Greatest number of pixels of a picture of which thumbnails are made. Two are made at once, each with up to \
             12 bytes of memory a pixel.",
        ),
        field(
            "media.cache_bytes",
            Kind::Integer,
            "Bytes of other servers' content and of thumbnails that are kept; what was not asked for longest is \
             dropped first.",
        ),
        field(
            "media.cache_days",
            Kind::Integer,
            "Days for which other servers' content and thumbnails are kept after they were last asked for.",
        ),
    ],
};

const MEDIA_BUCKET: Section = Section {
    name: "media.bucket",
    about: "A bucket of S3, or of whatever speaks its protocol, for content, instead of the folder media of \
            server.data_dir. Nothing else may be kept under the prefix. When these are changed, what was kept before has \
            to be copied; see the chapter on media.",
    fields: &[
        unset(
            "media.bucket.name",
            Kind::Text,
            "\"hearth-media\"",
            "The bucket's name. When unset, content is kept in the folder.",
        ),
        unset(
            "media.bucket.endpoint",
            Kind::Text,
            "\"https://s3.example.org\"",
            "The URL of the service that has the bucket. When unset, Amazon's in the region.",
        ),
        field("media.bucket.region", Kind::Text, "The region that the bucket is in."),
        unset(
            "media.bucket.access_key_id",
            Kind::Text,
            "\"AKEXAMPLE\"",
            "The name of the key with which this server asks. It may list, read, write and delete in the bucket.",
        ),
        unset(
            "media.bucket.secret_access_key",
            Kind::Text,
            "\"a secret\"",
            "The key itself. Better given as an environment variable.",
        ),
        field(
            "media.bucket.prefix",
            Kind::Text,
            "What stands before the name of every object, such as hearth: for a bucket that several share.",
        ),
        field(
            "media.bucket.path_style",
            Kind::Boolean,
            "Whether the bucket's name is part of the path (https://s3.example.org/NAME), as most services other than \
             Amazon's want it, or of the host.",
        ),
    ],
};

const MEDIA_PREVIEWS: Section = Section {
    name: "media.previews",
    about: "Previews of the pages that users link to: this server reads them, so that a page learns this server's \
            address and not the user's. It reads nothing in private networks, at other ports, or with a user's name \
            in the URL. A service of yours that has a public address, and trusts this server's, should be denied.",
    fields: &[
        field("media.previews.enabled", Kind::Boolean, "Whether previews are made at all."),
        field(
            "media.previews.allow_networks",
            Kind::TextList,
            "Networks in which pages may be although they are private or loopback, such as 10.1.0.0/16 for an \
             intranet whose pages every user may see.",
        ),
        field(
            "media.previews.deny_networks",
            Kind::TextList,
            "Networks of which no pages are read although they are public. Counts more than allow_networks.",
        ),
        field(
            "media.previews.allow_domains",
            Kind::TextList,
            "Domains of which previews are made, with everything below them; empty: of all. Redirects and pictures \
             count, too.",
        ),
        field(
            "media.previews.deny_domains",
            Kind::TextList,
            "Domains of which no previews are made, with everything below them. Counts more than allow_domains.",
        ),
        field("media.previews.ports", Kind::IntegerList, "Ports at which pages are read."),
        field(
            "media.previews.max_page_bytes",
            Kind::Integer,
            "Bytes of a page that are read; what a page says of itself comes first.",
        ),
        field(
            "media.previews.max_image_bytes",
            Kind::Integer,
            "Greatest size of a preview's picture in bytes. Pictures are kept as other servers' content is, within \
             media.cache_bytes and for media.cache_days.",
        ),
        field(
            "media.previews.timeout_s",
            Kind::Integer,
            "Longest time that reading a page may take, redirects included, in seconds. Its picture may take as long \
             again.",
        ),
        field(
            "media.previews.lifetime_s",
            Kind::Integer,
            "How long a preview is shown before the page is read again, in seconds.",
        ),
    ],
};

const PUSH: Section = Section {
    name: "push",
    about: "Notifications for phones and others that are not connected: they go to the push gateways that clients \
            name. In rooms of more than sync.large_room_members only mentions are pushed.",
    fields: &[
        field(
            "push.allow_networks",
            Kind::TextList,
            "Networks in which push gateways may be although they are private or loopback, such as 10.0.0.0/8. \
             Everywhere else such addresses are refused, so that nobody makes this server speak to services inside \
             of your network.",
        ),
        field(
            "push.allow_http",
            Kind::Boolean,
            "Whether push gateways may be spoken to without TLS. For tests, and for a gateway on this machine.",
        ),
        field(
            "push.request_timeout_s",
            Kind::Integer,
            "How long a gateway may take to answer, in seconds.",
        ),
        field(
            "push.backoff_min_s",
            Kind::Integer,
            "How long to wait after a gateway failed, in seconds; doubled with each further failure.",
        ),
        field("push.backoff_max_s", Kind::Integer, "The longest that it is waited, in seconds."),
    ],
};

const E2EE: Section = Section {
    name: "e2ee",
    about: "Keys of clients that encrypt, and messages to their devices.",
    fields: &[field(
        "e2ee.max_queued_messages",
        Kind::Integer,
        "Messages that wait for one device, or for one server that cannot be reached. Further ones are \
         not kept. At least 1000.",
    )],
};

const SYNC: Section = Section {
    name: "sync",
    about: "How clients are told what changed.",
    fields: &[
        field(
            "sync.max_timeout_ms",
            Kind::Integer,
            "Milliseconds that a sync may wait for news at most; longer wishes are cut to it. At most an \
             hour.",
        ),
        field(
            "sync.default_timeline_limit",
            Kind::Integer,
            "Events of each room's timeline in one response when the client's filter names no limit.",
        ),
        field(
            "sync.max_timeline_limit",
            Kind::Integer,
            "Events of each room's timeline in one response at most, 1 to 1000; larger wishes are cut \
             to it.",
        ),
        field(
            "sync.large_room_members",
            Kind::Integer,
            "A room with more joined members than this is large: other people's read receipts and \
             presence are not passed on there, and clients that do not view the room are woken by it \
             less often, if many are connected.",
        ),
        field(
            "sync.quiet_connected_users",
            Kind::Integer,
            "Wake-ups by a large room are gathered only while more users than this are connected to \
             it: a message costs each connected member one wake, and few are cheap.",
        ),
        field(
            "sync.quiet_interval_ms",
            Kind::Integer,
            "Milliseconds between two wake-ups of a waiting client by large rooms that it does not \
             view, at least. 0: every event wakes it. At most 60000.",
        ),
        field(
            "sync.viewing_ms",
            Kind::Integer,
            "Milliseconds that a room counts as viewed after the user sent something, a receipt or \
             typing there.",
        ),
        field(
            "sync.delivery_receipts",
            Kind::Boolean,
            "Whether senders learn that a message has reached another member's device, by receipts of \
             the type org.hearth.delivered. Off, because it tells others when a device is online.",
        ),
        field(
            "sync.delivery_room_members",
            Kind::Integer,
            "Delivery is told only in rooms of at most this many joined members.",
        ),
        field(
            "sync.max_idle_sessions",
            Kind::Integer,
            "Users whose connections are remembered after the last one ended, so that the next poll \
             costs nothing; the longest unused are forgotten first.",
        ),
        field("sync.session_idle_ms", Kind::Integer, "Milliseconds that they are remembered."),
    ],
};

const FEDERATION: Section = Section {
    name: "federation",
    about: "How the server speaks with other Matrix servers.",
    fields: &[
        field(
            "federation.enabled",
            Kind::Boolean,
            "Whether it speaks with other servers at all. When false, rooms are open to this server's \
             users only, and the federation endpoints do not exist.",
        ),
        field(
            "federation.allow",
            Kind::TextList,
            "If not empty, only these servers are spoken to and heard. \"*.example.org\" stands for every \
             server below example.org. Letter case and ports make no difference.",
        ),
        field(
            "federation.deny",
            Kind::TextList,
            "These servers are neither spoken to nor heard, even if they are allowed above. Written in \
             the same way.",
        ),
        field(
            "federation.allow_networks",
            Kind::TextList,
            "Networks, such as \"10.0.0.0/8\", that requests to other servers may go to although they \
             are private, loopback or otherwise not on the public Internet. Addresses are checked after \
             names are resolved, so that nobody can have this server ask its own neighbours.",
        ),
        field(
            "federation.ca_files",
            Kind::TextList,
            "Files with certificates of further authorities to trust, in PEM, beside those that the \
             operating system trusts. Relative to the folder of this file.",
        ),
        field(
            "federation.notaries",
            Kind::TextList,
            "Servers that are asked for the signing keys of servers that do not answer.",
        ),
        unset(
            "federation.well_known",
            Kind::Text,
            "\"matrix.example.org:443\"",
            "Where other servers reach this one: a name, with a port if it is not 8448. When set, \
             /.well-known/matrix/server names it; that address must be served under the server's own \
             name on port 443.",
        ),
        field(
            "federation.share_directory",
            Kind::Boolean,
            "Whether other servers may list and search the rooms that are published in this server's \
             directory.",
        ),
        field(
            "federation.request_timeout_s",
            Kind::Integer,
            "Seconds that one request to another server may take, from connecting to the end of the \
             answer. At least 1.",
        ),
        field(
            "federation.max_requests",
            Kind::Integer,
            "Requests under way to all other servers together; further ones wait. At least 1.",
        ),
        field(
            "federation.backoff_min_s",
            Kind::Integer,
            "Seconds that a server is left alone after it could not be reached for the first time. Each \
             further failure doubles them.",
        ),
        field(
            "federation.backoff_max_s",
            Kind::Integer,
            "Seconds that an unreachable server is left alone at most.",
        ),
    ],
};

const STORE: Section = Section {
    name: "store",
    about: "How rows are kept on disk.",
    fields: &[field(
        "store.engine",
        Kind::OneOf(&["fjall", "sled", "memory"]),
        "The embedded engine below the store. A store made with one engine does not open with \
         another. With memory, everything is lost when the server stops.",
    )],
};

const LOG: Section = Section {
    name: "log",
    about: "What is logged, to standard error. No line ever holds a password, token or message body.",
    fields: &[
        field(
            "log.level",
            Kind::Text,
            "error, warn, info, debug or trace; or levels by module, such as \
             \"info,hearth_rooms=debug\". The environment variable RUST_LOG overrides it.",
        ),
        field(
            "log.format",
            Kind::OneOf(&["text", "json"]),
            "Lines for people, or one JSON object a line.",
        ),
    ],
};
