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
    /// Section and name, with a dot between them.
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
    /// A number with decimals.
    Number,
    /// `true` or `false`.
    Boolean,
    /// A list of texts.
    TextList,
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

/// Every section, in the order of the file.
pub const SECTIONS: &[Section] = &[SERVER, LISTEN, CLIENT, STORE, LOG];

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
             and the socket for `hearth user` (admin.sock). Relative to the folder of this file. Only \
             the server's user may read it; back it up as a whole while the server is stopped.",
        ),
    ],
};

const LISTEN: Section = Section {
    name: "listen",
    about: "Where and how the server accepts connections. It speaks plain HTTP; put a reverse proxy \
            with TLS in front of it to serve more than this machine.",
    fields: &[
        field(
            "listen.addresses",
            Kind::TextList,
            "Addresses with ports. IPv6 is written [::1]:8008. Port 0 takes any free port.",
        ),
        field(
            "listen.max_connections",
            Kind::Integer,
            "Connections open at a time, over all addresses. Further ones wait in the operating \
             system's queue. Every client waiting for a sync holds one; the limit of open files is \
             raised as far as the operating system allows.",
        ),
        field(
            "listen.header_timeout_ms",
            Kind::Integer,
            "Milliseconds that a client may take to send the head of a request, and that a connection \
             may stay open without one. At least 1000.",
        ),
        field(
            "listen.shutdown_timeout_ms",
            Kind::Integer,
            "Milliseconds that running requests get to end when the server stops. Waiting syncs are \
             answered at once.",
        ),
    ],
};

const CLIENT: Section = Section {
    name: "client",
    about: "What clients are told.",
    fields: &[unset(
        "client.base_url",
        Kind::Text,
        "\"https://matrix.example.org\"",
        "The address under which clients reach this server. When set, /.well-known/matrix/client names \
         it, so that users need to type only the server name.",
    )],
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
