use super::*;

fn properties(text: &str) -> Vec<(String, String)> {
    read(text).properties.into_iter().collect()
}

fn property(text: &str, name: &str) -> Option<String> {
    read(text).properties.remove(name)
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[test]
fn open_graph_is_taken_as_it_is() {
    let page = r#"<!doctype html><html><head>
        <META PROPERTY="OG:Title" content=" The &amp; Rock
            again ">
        <meta name="og:type" content="video.movie"/>
        <meta property="og:title" content="a second one">
        <meta property="og:description" content="">
        <meta property="og:image" content="/rock.jpg">
        <meta property="og:image:width" content="7">
        <meta property="og:image:alt" content="a rock">
        <meta property="og:evil\"key" content="x">
        <meta property="article:author" content="somebody">
        <title>not this</title></head><body><p>Nor this.</p></body></html>"#;
    let expected = [
        ("og:description", "Nor this."),
        ("og:image:alt", "a rock"),
        ("og:title", "The & Rock again"),
        ("og:type", "video.movie"),
    ];
    assert_eq!(properties(page), pairs(&expected));
    assert_eq!(read(page).images, ["/rock.jpg"]);
}

#[test]
fn what_is_missing_is_taken_from_elsewhere() {
    let title = |text: &str| property(text, "og:title");
    let twitter = "<meta name=twitter:title content=T><title>A</title><h1>B</h1>";
    assert_eq!(title(twitter).as_deref(), Some("T"));
    assert_eq!(title("<title> A\n&lt;b> </title><h1>B</h1>").as_deref(), Some("A <b>"));
    assert_eq!(title("<body><h1><a>B</a>c</h1>").as_deref(), Some("B c"));
    assert_eq!(title("<svg><title>A</title></svg>"), None);
    let description = |text: &str| property(text, "og:description");
    let meta = "<meta name=description content=D><body><p>P</p>";
    assert_eq!(description(meta).as_deref(), Some("D"));
    let paragraphs =
        "<body>x<nav><p>menu</p></nav><p>One <b>two</b></p>y<p>three<script>s</script>";
    assert_eq!(description(paragraphs).as_deref(), Some("One two three"));
    assert_eq!(
        description("<body>Some <i>text</i>.<style>p{}</style>").as_deref(),
        Some("Some text .")
    );
    assert_eq!(properties(""), []);
    assert_eq!(properties("<html><head></head><body> \n </body>"), []);
}

#[test]
fn the_best_picture_comes_first() {
    let page = r#"<link rel="image_src" href="f.png"><meta itemprop="image" content="e.png">
        <meta name="twitter:image" content="d.png"><meta property="og:image" content="b.png">
        <meta property="og:image" content="c.png"><meta property="og:image:secure_url" content="a.png">
        <meta property="og:image:url" content=" ">"#;
    assert_eq!(read(page).images, ["a.png", "b.png", "d.png", "e.png"]);
}

#[test]
fn the_first_pictures_among_the_text_stand_for_those_that_are_missing() {
    let shown = |text: &str| read(text).shown;
    let page = r#"<body><header><img src=logo.png></header><noscript><img src=count.png></noscript>
        <p><img alt="none"><img src=""><img src="data:image/gif;base64,R0lGOD"><img src="cid:1"><img src="JavaScript:x">
        <img src=pixel.gif width=1 height=1><img src=line.png width="600" height=" 2px"><img src=icon.png width=31.9>
        <img src=hidden.png hidden><IMG SRC=" /a b.jpg?x=1:2 " WIDTH="100%" height=auto></p>
        <img src="/a b.jpg?x=1:2"><img src="HTTPS://b.example/b.png" width=32 height=99999999999><img src=c.png>"#;
    assert_eq!(shown(page), ["/a b.jpg?x=1:2", "HTTPS://b.example/b.png"]);
    assert_eq!(read(page).images, [] as [&str; 0], "it does not say that they are its own");
    assert_eq!(
        shown("<img src=a.png width=9% height=32>"),
        ["a.png"],
        "of something that is not known"
    );
    assert_eq!(shown("<img src=//b.example/a.png><img src=a:b/c.png>"), ["//b.example/a.png"]);
    let long = format!("<img src={}><img src=a.png>", "a".repeat(MAX_IMAGE_BYTES + 1));
    assert_eq!(shown(&long), ["a.png"]);
}

#[test]
fn scripts_and_comments_are_not_the_page() {
    let page = "<!-- <meta property=og:title content=a> --><script>'<meta property=og:title content=b>'\
                </script><textarea><meta property=og:title content=c></textarea><title>d</title>";
    assert_eq!(property(page, "og:title").as_deref(), Some("d"));
}

#[test]
fn values_are_cut_between_characters() {
    let long = "ä".repeat(MAX_VALUE_CHARS * 2);
    let page = format!("<meta property=og:title content={long}><body>{long}");
    assert_eq!(property(&page, "og:title").unwrap().chars().count(), MAX_VALUE_CHARS);
    assert_eq!(property(&page, "og:description").unwrap().chars().count(), MAX_TEXT_CHARS);
    let many: Vec<_> =
        (0..1_000).map(|n| format!("<meta property=og:a{} content=x>", "b".repeat(n))).collect();
    let many = many.concat();
    assert!(properties(&many).len() <= MAX_PROPERTIES);
}

#[test]
fn depth_costs_nothing() {
    let deep = format!("{}<title>deep</title>", "<div><b><table><svg>".repeat(100_000));
    // Inside of a picture there are titles of its parts.
    assert_eq!(property(&deep, "og:title"), None);
    let deep = format!("{}<title>deep</title>", "<div><b><a>".repeat(20_000));
    assert_eq!(property(&deep, "og:title").as_deref(), Some("deep"));
}

#[test]
fn what_takes_long_is_left_where_it_begins() {
    let after = "<title>after</title>";
    let numbered = |count: u32| (0..count).map(|n| format!(" a{n}")).collect::<Vec<_>>().concat();
    let attributes = numbered(200_000);
    let page = format!("<title>before</title><p{attributes}>{after}");
    assert_eq!(property(&page, "og:title").as_deref(), Some("before"));
    let wide = numbered(3_000);
    let page = format!("{}{after}", format!("<p{wide}>").repeat(10));
    assert_eq!(property(&page, "og:title"), None, "too many attributes");
    let page = format!("<!--{}-->{after}", "-".repeat(MAX_TOKEN_BYTES * 2));
    assert_eq!(property(&page, "og:title"), None, "a long comment");
    let page = format!("{}{after}", "<i>".repeat(MAX_TOKENS + STEP_BYTES));
    assert_eq!(property(&page, "og:title"), None, "too many tags");
    let page = format!("<script>{}</script>{after}", "x;".repeat(MAX_TOKEN_BYTES * 4));
    assert_eq!(property(&page, "og:title").as_deref(), Some("after"), "text is no tag");
}

#[test]
fn fuzz_pages() {
    let seeds: &[&[u8]] = &[
        b"<!doctype html><html><head><meta charset=utf-8><meta property=\"og:title\" content=\"A &amp; B\">\
          <title>T</title><meta property=og:image content=/a.png></head><body><h1>H</h1><p>P <b>b</b></p></body></html>",
        b"<?xml version='1.0' encoding='koi8-r'?><html><svg><title>x</title></svg><script>'<p>'</script><p>q",
        b"\xff\xfe<\0t\0i\0t\0l\0e\0>\0a\0",
    ];
    let words: &[&[u8]] = &[
        b"<",
        b">",
        b"</",
        b"/>",
        b"<!--",
        b"-->",
        b"<![CDATA[",
        b"&#x10ffff;",
        b"&amp",
        b"\"",
        b"'",
        b"=",
        b"\0",
        b"<title>",
        b"<script>",
        b"</script",
        b"<textarea>",
        b"<plaintext>",
        b"<meta property=og:a content=b>",
        b"<meta name=description content='",
        b"<img src=a:b width=1e9",
        b"<body>",
        b"<p ",
        b" a=b",
        b"charset=utf-7",
        b"charset=iso-2022-jp",
        b"\xf0\x9f\x98\x80",
        b"\x1b$B",
    ];
    hearth_fuzz::fuzz(seeds, words, |input| {
        let text = super::super::charset::decoded(input, "text/html");
        let page = read(&text);
        assert!(
            page.images.len() <= MAX_IMAGES
                && page.shown.len() <= MAX_SHOWN
                && page.properties.len() <= MAX_PROPERTIES + FALLBACKS.len()
        );
        for (name, value) in &page.properties {
            assert!(name.starts_with("og:") && name.len() <= MAX_NAME_BYTES, "{name:?}");
            assert!(
                value.chars().count() <= MAX_VALUE_CHARS && !value.trim().is_empty(),
                "{value:?}"
            );
            assert!(!value.chars().any(char::is_control), "{value:?}");
        }
        // A page says the same whenever it is read.
        assert_eq!(read(&text), page);
    });
}
