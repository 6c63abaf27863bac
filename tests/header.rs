//! What must agree with `src/ffi`: `include/netserver.h`, which cbindgen and this file make of it;
//! its version, which is that of `Cargo.toml`; its status numbers, whose table is in
//! `src/error.rs`, and the README's list of them; `tests/c/symbols.txt`; and the man page.
//! `NS_BLESS=1` writes the header, the README's list, the symbols and the man page anew.

use net_server::Status;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fs};

#[path = "header/man.rs"]
mod man;

/// The handles come first, because functions of all groups need them.
const HANDLES: [&str; 5] = ["ns_server", "ns_socket", "ns_config", "ns_tls", "ns_error"];

/// The groups of the header, in the order in which a program needs them: the banner, and the
/// sources. Inside a group the order is that of the sources.
const GROUPS: [(&str, &[&str]); 11] = [
    ("HANDLES: what the functions are about", &["handles", "user_data"]),
    (
        "ERRORS: status numbers, error objects, why a handler fails, why a connection closed",
        &["error", "raise", "close_reason"],
    ),
    (
        "CONFIG: settings and callbacks, each with a default",
        &["config", "settings", "limits", "callbacks", "logger"],
    ),
    ("SERVER: make, start, stop, free", &["server", "quiesce", "services"]),
    (
        "SOCKET: in the callbacks of a connection, or detached",
        &["transfer", "socket", "addresses", "owned"],
    ),
    ("PROXY: the client's address behind a load balancer", &["proxy"]),
    ("BY ID: calls for a connection from any thread", &["calls"]),
    ("LOOPS: the program's own descriptors, timers, tasks, sockets", &["tasks", "adopt"]),
    ("TLS: certificates, and TLS on one connection", &["tls", "tls_socket"]),
    ("STATISTICS: counters and a report", &["stats"]),
    ("VERSION: which library is in use", &["version"]),
];

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn source(name: &str) -> String {
    fs::read_to_string(path(name)).expect(name)
}

fn version_macros() -> String {
    format!(
        "/** The first number of this header's version. */\n#define NS_VERSION_MAJOR {0}\n\n\
         /** The second number of this header's version. */\n#define NS_VERSION_MINOR {1}\n\n\
         /** The third number of this header's version. */\n#define NS_VERSION_PATCH {2}\n\n\
         /** The version of this header. */\n#define NS_VERSION_STRING \"{0}.{1}.{2}\"\n\n\
         /** As a number, 0xMMmmpp, to compare with `ns_version_number`. */\n\
         #define NS_VERSION_NUMBER \
         (NS_VERSION_MAJOR << 16 | NS_VERSION_MINOR << 8 | NS_VERSION_PATCH)",
        env!("CARGO_PKG_VERSION_MAJOR"),
        env!("CARGO_PKG_VERSION_MINOR"),
        env!("CARGO_PKG_VERSION_PATCH"),
    )
}

/// What cbindgen makes of all sources.
fn generated() -> String {
    let config = cbindgen::Config::from_file(path("cbindgen.toml")).expect("cbindgen.toml");
    let mut builder = cbindgen::Builder::new().with_config(config);
    for source in GROUPS.iter().flat_map(|group| group.1) {
        builder = builder.with_src(path(&format!("src/ffi/{source}.rs")));
    }
    let mut text = Vec::new();
    builder.generate().expect("the sources parse").write(&mut text);
    let text = String::from_utf8(text).expect("UTF-8");
    assert!(text.is_ascii(), "the header is read by every compiler");
    text
}

/// A text of C without its comments.
fn without_comments(text: &str) -> String {
    let mut pieces = text.split("/*");
    let first = pieces.next().unwrap_or_default().to_owned();
    first + &pieces.filter_map(|piece| piece.split_once("*/")).map(|p| p.1).collect::<String>()
}

/// The name that an item of the header declares, if it declares one.
fn declared(item: &str) -> Option<String> {
    let code = without_comments(item);
    let code = code.trim();
    let start = match code {
        _ if code.starts_with("#define ") => &code["#define ".len()..],
        _ if code.starts_with('#') || !code.ends_with(';') => return None,
        _ if code.contains("(*") => code.split_once("(*")?.1,
        _ if code.starts_with("typedef ") => code.rsplit([' ', '*']).next()?,
        _ => code.split_once('(')?.0.rsplit([' ', '*']).next()?,
    };
    Some(start.split(|c: char| !c.is_alphanumeric() && c != '_').next()?.to_owned())
}

/// The names that a source exports, in its order.
fn exported(file: &str) -> Vec<String> {
    let kinds = ["const ", "struct ", "type ", "extern \"C\" fn "];
    let text = source(&format!("src/ffi/{file}.rs"));
    let public = text.lines().filter_map(|line| line.strip_prefix("pub "));
    let names = public.filter_map(|line| {
        let line = line.strip_prefix("unsafe ").unwrap_or(line);
        let rest = kinds.iter().find_map(|kind| line.strip_prefix(kind))?;
        Some(rest.split(|c: char| !c.is_alphanumeric() && c != '_').next()?.to_owned())
    });
    names.collect()
}

fn banner(title: &str) -> String {
    let line = "=".repeat(92);
    format!("/* {line}\n * {title}\n * {line} */")
}

/// The title of a banner.
fn banner_title(block: &str) -> Option<&str> {
    block.starts_with("/* ====").then(|| block.lines().nth(1))?.map(|line| &line[3..])
}

fn header() -> String {
    let text = generated();
    // No item and no comment has an empty line inside.
    let blocks: Vec<&str> = text.split("\n\n").map(|b| b.trim_matches('\n')).collect();
    let first = blocks.iter().position(|b| declared(b).is_some()).expect("an item");
    let last = blocks.iter().rposition(|b| declared(b).is_some()).expect("an item");
    let mut items: BTreeMap<String, &str> =
        blocks[first..=last].iter().map(|b| (declared(b).expect(b), *b)).collect();

    let mut out: Vec<String> = blocks[..first].iter().map(|b| b.to_string()).collect();
    for (at, (title, sources)) in GROUPS.iter().enumerate() {
        out.push(banner(title));
        if at == 0 {
            out.extend(HANDLES.map(|name| items.remove(name).expect(name).to_owned()));
        }
        if sources.contains(&"version") {
            out.push(version_macros());
        }
        let names = sources.iter().flat_map(|source| exported(source));
        out.extend(names.filter_map(|name| items.remove(&name)).map(str::to_owned));
    }
    assert!(items.is_empty(), "in no group: {items:?}");
    out.extend(blocks[last + 1..].iter().map(|b| b.to_string()));
    for item in &mut out {
        *item = with_tag(item);
    }
    short_comments(&(out.join("\n\n") + "\n"))
}

/// A struct with its name as its tag too. cbindgen's style "both" would also write `struct` before
/// each parameter.
fn with_tag(item: &str) -> String {
    match declared(item) {
        Some(name) => item.replace("typedef struct {", &format!("typedef struct {name} {{")),
        None => item.to_owned(),
    }
}

/// Comments of one line on one line.
fn short_comments(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let mut out = String::new();
    let mut at = 0;
    while at < lines.len() {
        let indent = lines[at].len() - lines[at].trim_start().len();
        let short =
            lines[at].trim() == "/**" && lines.get(at + 2).is_some_and(|l| l.trim() == "*/");
        if short {
            let words = lines[at + 1].trim_start().trim_start_matches("* ");
            out += &format!("{:indent$}/** {words} */\n", "");
            at += 3;
        } else {
            out += &format!("{}\n", lines[at]);
            at += 1;
        }
    }
    out
}

/// The items of the header: name, comment without its marks, declaration.
fn items(header: &str) -> Vec<(String, String, String)> {
    let items = header.split("\n\n").filter_map(|item| {
        let name = declared(item)?;
        let comment = item.split_once("/**").map_or("", |(_, rest)| rest);
        let comment = comment.split_once("*/").map_or("", |(comment, _)| comment);
        let lines = comment.lines().map(|l| l.trim().trim_start_matches('*').trim());
        let comment = lines.collect::<Vec<_>>().join("\n").trim().to_owned();
        Some((name, comment, without_comments(item).trim().to_owned()))
    });
    items.collect()
}

fn is_function(declaration: &str) -> bool {
    !declaration.starts_with("typedef") && declaration.ends_with(");")
}

/// The functions that a header declares, sorted.
fn functions(header: &str) -> String {
    let functions = items(header).into_iter().filter(|(.., declaration)| is_function(declaration));
    let mut names: Vec<String> = functions.map(|(name, ..)| name + "\n").collect();
    names.sort_unstable();
    names.concat()
}

fn check(name: &str, fresh: &str) {
    if env::var_os("NS_BLESS").is_some() {
        fs::create_dir_all(path(name).parent().expect("a folder")).expect(name);
        fs::write(path(name), fresh).expect(name);
    }
    let checked_in = fs::read_to_string(path(name)).unwrap_or_default();
    // Not assert_eq: it would print both files.
    assert!(checked_in == fresh, "{name} is not up to date: NS_BLESS=1 cargo test --test header");
}

#[test]
fn the_header_is_up_to_date() {
    check("include/netserver.h", &header());
}

#[test]
fn the_man_page_is_up_to_date() {
    check("packaging/netserver.3", &man::page(&header()));
}

#[test]
fn the_list_of_symbols_is_up_to_date() {
    check("tests/c/symbols.txt", &functions(&header()));
}

/// Nothing in `src/ffi` is left out because its file is not in the list above.
#[test]
fn every_exported_function_is_declared() {
    let mut exported: Vec<String> = Vec::new();
    for entry in fs::read_dir(path("src/ffi")).expect("src/ffi") {
        let text = fs::read_to_string(entry.expect("an entry").path()).expect("a source");
        let public = text.lines().filter(|line| line.starts_with("pub "));
        let names = public.filter_map(|line| line.split_once("extern \"C\" fn "));
        exported.extend(names.map(|(_, rest)| rest.split('(').next().unwrap_or(rest).to_owned()));
    }
    exported.sort_unstable();
    let exported: String = exported.into_iter().map(|name| format!("{name}\n")).collect();
    assert_eq!(exported, functions(&header()));
}

/// `Returns:` at the beginning of a line, and the tags on the last.
#[test]
fn every_function_says_what_it_returns_and_where_it_may_be_called() {
    let tags = [
        "[any]",
        "[any, by the owner]",
        "[setup]",
        "[handler]",
        "[signal]",
        "[blocks]",
        "[blocks, in blocking mode]",
    ];
    for (name, comment, declaration) in items(&header()) {
        let function = is_function(&declaration);
        if function {
            let mut rest = comment.lines().last().unwrap_or_default();
            assert!(rest.starts_with('['), "{name}: no line with tags at the end");
            while let Some(tag) = tags.iter().find(|tag| rest.starts_with(*tag)) {
                rest = rest[tag.len()..].trim_start();
            }
            assert!(rest.is_empty(), "{name}: not a tag: {rest}");
        }
        let pointer = declaration.contains("(*");
        let void = ["void ns_", "typedef void (*"].iter().any(|v| declaration.starts_with(v));
        let says = comment.lines().filter(|line| line.starts_with("Returns: ")).count();
        if function || pointer {
            assert_eq!(says, usize::from(!void), "{name}: one line begins with Returns:");
        }
        assert!(!comment.contains("eturns:") || says == 1, "{name}: Returns: inside a line");
    }
}

/// The table of `src/error.rs`: number, name and meaning of each status.
fn statuses() -> Vec<(i32, String, String)> {
    let text = source("src/error.rs");
    let table = text.split_once("\nstatuses! {\n").expect("the table").1;
    let table = table.split_once("\n}\n").expect("its end").0;
    let mut meaning = String::new();
    let mut statuses = Vec::new();
    for line in table.lines().map(str::trim) {
        if let Some(words) = line.strip_prefix("///") {
            meaning = format!("{meaning} {}", words.trim()).trim().to_owned();
            continue;
        }
        let name = line.split('"').nth(1).expect("a name").to_owned();
        let status = Status::ALL[statuses.len()];
        assert_eq!(status.name(), name, "the table is in order");
        statuses.push((status.code(), name, std::mem::take(&mut meaning)));
    }
    assert_eq!(statuses.len(), Status::ALL.len());
    statuses
}

/// cbindgen sees through no macro, so the constants are written out: here they are compared.
#[test]
fn the_status_numbers_are_those_of_the_table() {
    let mut constants = items(&header());
    constants.retain(|(name, ..)| name == "NS_OK" || name.starts_with("NS_ERR_"));
    let table = statuses().into_iter().map(|(code, name, meaning)| {
        let definition = format!("#define {name} {code}");
        (name, meaning, definition)
    });
    let constants = constants
        .into_iter()
        .map(|(name, comment, definition)| (name, comment.replace('\n', " "), definition));
    for (constant, row) in constants.clone().zip(table.clone()) {
        assert_eq!(constant, row);
    }
    assert_eq!(constants.count(), table.count());
}

#[test]
fn the_list_of_statuses_in_the_readme_is_up_to_date() {
    let rows = statuses().into_iter().filter(|row| row.0 < 0);
    let rows = rows.map(|(code, name, meaning)| {
        format!("| \u{2212}{} | `{name}` | {meaning} |\n", code.unsigned_abs())
    });
    let head = "| number | name | meaning |\n|---|---|---|\n";
    let readme = source("README.md");
    let (before, rest) = readme.split_once(head).expect("the list");
    let (_, after) = rest.split_once("\n\n").expect("its end");
    check("README.md", &format!("{before}{head}{}\n{after}", rows.collect::<String>()));
}

/// In the files that rely on the caller's contract (`src/ffi/mod.rs`), whatever reads through a
/// pointer or frees it has a SAFETY comment of its own.
#[test]
fn what_does_more_than_pass_arguments_on_says_why_it_may() {
    let more = [
        "from_raw",
        "from_ptr(",
        "increment_strong_count",
        ".add(",
        ".read(",
        ".write(",
        "copy_nonoverlapping",
        "write_bytes",
        ".as_ref() }",
        ".as_mut() }",
        "unsafe { &",
        "unsafe { *",
        "unsafe impl",
        "transmute",
        "function(",
    ];
    for entry in fs::read_dir(path("src/ffi")).expect("src/ffi") {
        let file = entry.expect("an entry").path();
        let text = fs::read_to_string(&file).expect("a source");
        if !text.contains("#![allow(clippy::undocumented_unsafe_blocks)]") {
            continue;
        }
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let does_more = more.iter().any(|word| code.contains(word));
            // The comment stands above the statement.
            let says_why = lines[at.saturating_sub(4)..at].iter().any(|l| l.contains("// SAFETY:"));
            assert!(!does_more || says_why, "{}:{}: no SAFETY comment", file.display(), at + 1);
        }
    }
}
