//! The man page `netserver(3)`: the header's text in mdoc(7).

use super::{banner_title, declared, is_function, without_comments};

/// What stands before the header's first comment, and what after its last group. The page has no
/// date, so that it depends on the header alone.
const BEGIN: &str = r#".\" Made by tests/header.rs from include/netserver.h: change it in src/ffi.
.Dd $Mdocdate$
.Dt NETSERVER 3
.Os
.Sh NAME
.Nm netserver
.Nd TCP and TLS server inside a program
.Sh LIBRARY
.Li libnetserver
.Pq Fl lnetserver
.Sh SYNOPSIS
.In netserver.h
.Pp
.Dl cc echo.c $(pkg-config --cflags --libs netserver)
.Sh DESCRIPTION
"#;
const END: &str = ".Sh SEE ALSO
.Xr pkg-config 1 ,
.Xr socket 2 ,
.Xr epoll 7 ,
.Xr tcp 7
";

/// A piece of text that is no request, whatever it begins with.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace(" -", " \\-");
    if text.starts_with(['.', '\'']) {
        format!("\\&{text}")
    } else {
        text
    }
}

/// A paragraph: a sentence begins a line, and what stands in `` ` `` is bold.
fn paragraph(text: &str) -> String {
    let mut out = String::new();
    let (mut line, mut bold, mut ended) = (String::new(), false, false);
    for word in text.split_whitespace() {
        let mut marked = String::new();
        for (at, piece) in word.split('`').enumerate() {
            if at > 0 {
                marked += if bold { "\\fP" } else { "\\fB" };
                bold = !bold;
            }
            marked += &escaped(piece);
        }
        let begins = ended && word.starts_with(|c: char| !c.is_lowercase());
        if begins || line.len() + marked.len() > 79 {
            out += &format!("{}\n", line.trim_end());
            line.clear();
        }
        line += &format!("{marked} ");
        ended = !bold && word.trim_end_matches(['`', ')', '"']).ends_with(['.', '?', '!']);
    }
    out + line.trim_end() + "\n"
}

/// The text of a comment: paragraphs, and code that is indented by four spaces.
fn text(comment: &str) -> String {
    let mut out = String::new();
    for part in comment.split("\n\n").filter(|part| !part.trim().is_empty()) {
        if !out.is_empty() && !out.ends_with(".Ed\n") {
            out += ".Pp\n";
        }
        if part.starts_with("    ") {
            let lines = part.lines().map(|line| escaped(line.strip_prefix("    ").unwrap_or(line)));
            let code = lines.collect::<Vec<_>>().join("\n");
            // The parts of one example stand in one display.
            out = match out.strip_suffix(".Ed\n") {
                Some(before) => format!("{before}\n{code}\n.Ed\n"),
                None => format!(
                    "{}.Bd -literal -offset indent\n{code}\n.Ed\n",
                    out.trim_end_matches(".Pp\n")
                ),
            };
        } else {
            out += &paragraph(part);
        }
    }
    out
}

/// The first comment of a text without its marks.
fn comment(item: &str) -> String {
    let Some((_, rest)) = item.split_once("/*") else { return String::new() };
    let comment = rest.split_once("*/").map_or("", |(comment, _)| comment);
    let lines = comment.trim_start_matches('*').lines().map(|line| {
        let line = line.trim_start();
        let line = line.strip_prefix('*').unwrap_or(line);
        line.strip_prefix(' ').unwrap_or(line).trim_end()
    });
    let text = lines.collect::<Vec<_>>().join("\n");
    let tags = text.rfind("\n[").filter(|_| text.trim_end().ends_with(']'));
    let text = match tags {
        Some(at) => format!("{}\n\n{}", &text[..at], &text[at + 1..]),
        None => text,
    };
    text.trim_matches('\n').to_owned()
}

/// The header's first comment: a paragraph that begins in capitals begins a section.
fn introduction(header: &str) -> String {
    let comment = comment(header);
    let mut out = String::new();
    let mut section = String::new();
    for part in comment.split("\n\n") {
        let (title, rest) = part.split_once(". ").unwrap_or(("", part));
        let is_title = !title.is_empty() && title.chars().all(|c| c.is_uppercase() || c == ' ');
        if is_title {
            let mut title = title.to_lowercase();
            if let Some(first) = title.get_mut(0..1) {
                first.make_ascii_uppercase();
            }
            let title = title.replace("Tls", "TLS");
            out += &format!("{}.Ss {title}\n", text(&section));
            section.clear();
        }
        section += &format!("{}\n\n", if is_title { rest } else { part });
    }
    out + &text(&section)
}

/// `.Fa` of each parameter of `(a, b)`; none for `(void)`.
fn parameters(list: &str) -> String {
    let list = list.trim_end_matches([';', ')']);
    let list = list.split(',').map(|p| p.split_whitespace().collect::<Vec<_>>().join(" "));
    let list = list.filter(|parameter| parameter != "void");
    list.map(|parameter| format!(".Fa \"{parameter}\"\n")).collect()
}

/// What stands in the list before the text of an item.
fn head(name: &str, code: &str) -> String {
    if let Some(definition) = code.strip_prefix("#define ") {
        let value = definition.strip_prefix(name).unwrap_or_default().trim();
        return format!(".It Dv {name} No \"{}\"\n", escaped(&format!("= {value}")));
    }
    if is_function(code) {
        let (before, list) = code.split_once('(').expect("parameters");
        let kind = before.strip_suffix(name).expect("a name at the end").trim();
        return format!(".It Xo\n.Ft {kind}\n.Fo {name}\n{}.Fc\n.Xc\n", parameters(list));
    }
    match code.split_once("(*") {
        Some((kind, rest)) => {
            let kind = kind.trim_start_matches("typedef ").trim();
            let (_, list) = rest.split_once(")(").expect("parameters");
            let list = parameters(list);
            format!(".It Xo\n.Ft {kind}\n.Fo (*{name})\n{list}.Fc\n.Xc\n")
        }
        None => format!(".It Vt {name}\n"),
    }
}

/// The members of a struct, each with its comment.
fn members(item: &str) -> String {
    let Some((_, body)) = item.split_once(" {\n") else { return String::new() };
    let body = body.rsplit_once('}').map_or("", |(body, _)| body);
    let mut out = ".Bl -tag -width Ds -compact\n".to_owned();
    for member in body.split_inclusive(";\n") {
        let Some((_, declaration)) = member.split_once("*/") else { continue };
        let declaration = declaration.trim().trim_end_matches(';');
        out += &format!(".It Vt {declaration}\n{}", text(&comment(member)));
    }
    out + ".El\n"
}

/// The page.
pub fn page(header: &str) -> String {
    let mut out = BEGIN.to_owned() + &introduction(header);
    let mut open = false;
    for item in header.split("\n\n") {
        if let Some(title) = banner_title(item) {
            out += if open { ".El\n" } else { "" };
            let (name, about) = title.split_once(": ").unwrap_or((title, ""));
            out += &format!(".Sh {name}\n{}.Bl -tag -width Ds\n", paragraph(&sentence(about)));
            open = true;
        }
        let Some(name) = declared(item).filter(|_| open) else { continue };
        let code = without_comments(item);
        out += &head(&name, code.trim());
        out += &text(&comment(item));
        out += &members(item);
    }
    out + ".El\n" + END
}

/// A group's few words as a sentence.
fn sentence(words: &str) -> String {
    let mut letters = words.chars();
    let first = letters.next().map_or(String::new(), |c| c.to_uppercase().to_string());
    format!("{first}{}.", letters.as_str())
}
