//! What a page says of itself: OpenGraph, else what it says to others, else its text and what it shows.
//!
//! The page is read as a stream of tags and texts, and no tree is made of it: how deeply its elements are nested
//! costs nothing. (A tree would, in memory and, with elements that are closed in the wrong order, in time.) Only what is
//! kept is held, and the tag that is being read, both of bounded size.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
};

use html5ever::{
    buffer_queue::BufferQueue,
    tendril::StrTendril,
    tokenizer::{
        Tag, TagKind, Token, TokenSink, TokenSinkResult, Tokenizer, TokenizerOpts, states::RawKind,
    },
};

/// Text that is read before it is looked whether that is enough.
const STEP_BYTES: usize = 4_096;
/// The longest tag or comment. A page with a longer one is read up to it. (Each attribute of a tag is compared to
/// those before it.)
const MAX_TOKEN_BYTES: usize = 32 * 1_024;
/// Tags and texts of one page that are looked at.
const MAX_TOKENS: usize = 200_000;
/// Pairs of attributes of one tag that may have been compared, over all tags of a page.
const MAX_COMPARISONS: usize = 20_000_000;
/// Properties of a page that are kept.
const MAX_PROPERTIES: usize = 48;
/// The longest name of a property.
const MAX_NAME_BYTES: usize = 64;
/// The longest value of a property; longer ones are cut.
const MAX_VALUE_CHARS: usize = 1_000;
/// Text of the page that stands for a missing description.
const MAX_TEXT_CHARS: usize = 500;
/// Addresses of pictures that a page says are its own, which are kept.
const MAX_IMAGES: usize = 4;
/// Addresses of pictures that it merely shows, which are kept.
const MAX_SHOWN: usize = 2;
/// What is narrower or lower, in pixels, is an icon or counts readers: it is not what the page is about.
pub(crate) const MIN_SHOWN_SIDE: u32 = 32;
/// The longest address of a picture.
const MAX_IMAGE_BYTES: usize = 4_096;

/// Properties that are taken from another name where the page does not have them, best first.
const FALLBACKS: &[(&str, &str)] = &[
    ("og:title", "twitter:title"),
    ("og:title", "title"),
    ("og:title", "heading"),
    ("og:description", "twitter:description"),
    ("og:description", "description"),
    ("og:description", "paragraphs"),
    ("og:description", "text"),
    ("og:site_name", "application-name"),
];
/// Names of properties, other than OpenGraph's, that are kept until the page is read.
const OTHERS: &[&str] =
    &["twitter:title", "twitter:description", "description", "application-name"];
/// Names under which pages have the address of their picture, best first.
const IMAGES: &[&str] = &[
    "og:image:secure_url",
    "og:image",
    "og:image:url",
    "twitter:image",
    "twitter:image:src",
    "image",
    "image_src",
];
/// Elements whose text is not what the page is about.
const SKIPPED: &[&str] = &[
    "aside", "button", "canvas", "footer", "form", "header", "iframe", "menu", "nav", "noembed",
    "noframes", "noscript", "object", "option", "script", "select", "style", "svg", "template",
    "textarea", "video",
];

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Page {
    /// OpenGraph's properties but the pictures, each once.
    pub(crate) properties: BTreeMap<String, String>,
    /// Addresses of pictures that the page says are its own, as it has them, best first.
    pub(crate) images: Vec<String>,
    /// Addresses of the first pictures that it shows among its text, as it has them. They may turn out to be
    /// [smaller](MIN_SHOWN_SIDE) than they are said to be.
    pub(crate) shown: Vec<String>,
}

/// Reads a page.
pub(crate) fn read(text: &str) -> Page {
    let tokenizer = Tokenizer::new(Reader::default(), TokenizerOpts::default());
    let queue = BufferQueue::default();
    let mut rest = text;
    while !rest.is_empty() && tokenizer.sink.wants_more() {
        let (step, left) = rest.split_at(rest.floor_char_boundary(STEP_BYTES));
        rest = left;
        queue.push_back(StrTendril::from_slice(step));
        // Scripts do not run, so it never stops before the end of what it has.
        drop(tokenizer.feed(&queue));
        tokenizer.sink.note_fed(step.len());
    }
    if rest.is_empty() {
        tokenizer.end();
    }
    tokenizer.sink.found.into_inner().page()
}

/// Takes tags and texts as they come.
#[derive(Default)]
struct Reader {
    found: RefCell<Found>,
    tokens: Cell<usize>,
    comparisons: Cell<usize>,
    /// Bytes since the last token.
    waiting: Cell<usize>,
}

impl Reader {
    fn wants_more(&self) -> bool {
        self.tokens.get() < MAX_TOKENS
            && self.comparisons.get() < MAX_COMPARISONS
            && self.waiting.get() < MAX_TOKEN_BYTES
    }

    fn note_fed(&self, bytes: usize) {
        self.waiting.set(self.waiting.get() + bytes);
    }
}

impl TokenSink for Reader {
    type Handle = ();

    fn process_token(&self, token: Token, _line: u64) -> TokenSinkResult<()> {
        // Complaints come in the middle of a tag, too.
        if !matches!(token, Token::ParseError(_)) {
            self.waiting.set(0);
        }
        self.tokens.set(self.tokens.get() + 1);
        let mut found = self.found.borrow_mut();
        match token {
            Token::TagToken(tag) => {
                let compared = tag.attrs.len().saturating_mul(tag.attrs.len());
                self.comparisons.set(self.comparisons.get().saturating_add(compared));
                found.tag(&tag)
            }
            Token::CharacterTokens(text) => {
                found.text(&text);
                TokenSinkResult::Continue
            }
            _ => TokenSinkResult::Continue,
        }
    }
}

/// Where the text goes that comes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Nowhere,
    Title,
    Heading,
    Paragraph,
    Body,
}

#[derive(Debug, Default)]
struct Found {
    /// By name; the first of a name counts.
    properties: BTreeMap<String, String>,
    images: BTreeMap<usize, String>,
    shown: Vec<String>,
    place: Place,
    in_body: bool,
    /// How many elements that are skipped are open.
    skipped: usize,
}

impl Found {
    fn tag(&mut self, tag: &Tag) -> TokenSinkResult<()> {
        let name: &str = &tag.name;
        if tag.kind == TagKind::EndTag {
            self.end(name);
            return TokenSinkResult::Continue;
        }
        match name {
            "meta" => self.meta(tag),
            "link" => self.link(tag),
            "img" if self.skipped == 0 => self.img(tag),
            "body" => self.in_body = true,
            _ if SKIPPED.contains(&name) && !tag.self_closing => self.skipped += 1,
            _ => {}
        }
        self.place = match name {
            "title" if self.skipped == 0 && !self.in_body && self.is_missing("title") => {
                Place::Title
            }
            "h1" if self.is_missing("heading") => Place::Heading,
            "p" => Place::Paragraph,
            _ if self.place == Place::Nowhere && self.in_body => Place::Body,
            _ => self.place,
        };
        // Words of neighbouring elements do not run together.
        self.text(" ");
        raw_kind(name).map_or(TokenSinkResult::Continue, TokenSinkResult::RawData)
    }

    fn is_missing(&self, name: &str) -> bool {
        !self.properties.contains_key(name)
    }

    fn end(&mut self, name: &str) {
        if SKIPPED.contains(&name) {
            self.skipped = self.skipped.saturating_sub(1);
        }
        self.text(" ");
        if matches!(name, "title" | "h1" | "p") {
            self.place = if self.in_body { Place::Body } else { Place::Nowhere };
        }
    }

    fn text(&mut self, text: &str) {
        let name = match self.place {
            _ if self.skipped > 0 => return,
            Place::Nowhere => return,
            Place::Title => "title",
            Place::Heading => "heading",
            Place::Paragraph => "paragraphs",
            Place::Body => "text",
        };
        let kept = self.properties.entry(name.to_owned()).or_default();
        append(kept, text, MAX_TEXT_CHARS);
    }

    fn meta(&mut self, tag: &Tag) {
        let Some(content) = attribute(tag, "content") else { return };
        for key in ["property", "name", "itemprop"] {
            if let Some(name) = attribute(tag, key) {
                self.property(&name.trim().to_ascii_lowercase(), content);
            }
        }
    }

    fn link(&mut self, tag: &Tag) {
        if let (Some(rel), Some(to)) = (attribute(tag, "rel"), attribute(tag, "href"))
            && rel.eq_ignore_ascii_case("image_src")
        {
            self.property("image_src", to);
        }
    }

    fn img(&mut self, tag: &Tag) {
        let Some(address) = attribute(tag, "src").map(str::trim) else { return };
        let is_small =
            |name| attribute(tag, name).and_then(pixels).is_some_and(|side| side < MIN_SHOWN_SIDE);
        if self.shown.len() >= MAX_SHOWN
            || address.is_empty()
            || address.len() > MAX_IMAGE_BYTES
            || !may_be_of_the_web(address)
            || is_small("width")
            || is_small("height")
            || attribute(tag, "hidden").is_some()
            || self.shown.iter().any(|known| known == address)
        {
            return;
        }
        self.shown.push(address.to_owned());
    }

    fn property(&mut self, name: &str, content: &str) {
        if let Some(rank) = IMAGES.iter().position(|image| *image == name) {
            let address = content.trim();
            if !address.is_empty() && address.len() <= MAX_IMAGE_BYTES {
                self.images.entry(rank).or_insert_with(|| address.to_owned());
            }
            return;
        }
        let is_open_graph = name.starts_with("og:")
            && name.len() <= MAX_NAME_BYTES
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || b":_-".contains(&byte))
            // What it says of its picture is found out, not believed.
            && (!name.starts_with("og:image:") || name == "og:image:alt");
        if !is_open_graph && !OTHERS.contains(&name)
            || self.properties.len() >= MAX_PROPERTIES
            || self.properties.contains_key(name)
        {
            return;
        }
        let mut value = String::new();
        append(&mut value, content, MAX_VALUE_CHARS);
        if !value.trim().is_empty() {
            self.properties.insert(name.to_owned(), value);
        }
    }

    fn page(mut self) -> Page {
        for (name, other) in FALLBACKS {
            let Some(value) = self.properties.remove(*other) else { continue };
            if !self.properties.contains_key(*name) && !value.trim().is_empty() {
                self.properties.insert((*name).to_owned(), value);
            }
        }
        for value in self.properties.values_mut() {
            value.truncate(value.trim_end().len());
        }
        let images = self.images.into_values().take(MAX_IMAGES).collect();
        Page { properties: self.properties, images, shown: self.shown }
    }
}

/// Appends text with its blanks made one each and without control characters, up to so many characters.
fn append(kept: &mut String, text: &str, max_chars: usize) {
    let mut count = kept.chars().count();
    for char in text.chars() {
        let char = if char.is_whitespace() || char.is_control() { ' ' } else { char };
        if char == ' ' && (kept.is_empty() || kept.ends_with(' ')) {
            continue;
        }
        if count >= max_chars {
            return;
        }
        kept.push(char);
        count += 1;
    }
}

fn attribute<'a>(tag: &'a Tag, name: &str) -> Option<&'a str> {
    let found = tag.attrs.iter().find(|attribute| &*attribute.name.local == name);
    found.map(|attribute| &*attribute.value)
}

/// The pixels of a `width` or `height`, unless it is a part of something else's (HTML "Rules for parsing dimension
/// values"). More than can be counted is many.
fn pixels(dimension: &str) -> Option<u32> {
    let dimension = dimension.trim_start();
    let digits = dimension.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, unit) = dimension.split_at(digits);
    let unit = unit.trim_start_matches(|char: char| char == '.' || char.is_ascii_digit());
    if digits.is_empty() || unit.starts_with('%') {
        return None;
    }
    Some(digits.parse().unwrap_or(u32::MAX))
}

/// Is this an address relative to the page's, or one of the web? Pictures that are in the page itself (`data:`) are
/// often there until the real one is wanted.
fn may_be_of_the_web(address: &str) -> bool {
    let is_of_scheme = |char: char| char.is_ascii_alphanumeric() || "+-.".contains(char);
    match address.split_once(':') {
        Some((scheme, _)) if scheme.chars().all(is_of_scheme) => {
            scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https")
        }
        _ => true,
    }
}

/// How what follows a tag is to be read, if not as usual: in these elements `<` is a character as others are.
fn raw_kind(name: &str) -> Option<RawKind> {
    match name {
        "title" | "textarea" => Some(RawKind::Rcdata),
        "style" | "xmp" | "iframe" | "noembed" | "noframes" => Some(RawKind::Rawtext),
        "script" => Some(RawKind::ScriptData),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
