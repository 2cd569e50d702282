//! Rust source with comments and the content of strings blanked, so that rules about code can look for
//! words and not be misled by prose.

/// `source` with the same lines, in which comments, strings and character literals are spaces.
pub(crate) fn code_of(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let length = non_code_length(rest, code.chars().next_back());
        if length == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            let (blanked, after) = rest.split_at(length);
            code.extend(blanked.chars().map(|character| if character == '\n' { '\n' } else { ' ' }));
            rest = after;
        }
    }
    code
}

/// Whether `word` stands in `code` as a word of its own, followed by `after`.
pub(crate) fn has_word(code: &str, word: &str, after: &str) -> bool {
    let is_part = |character: Option<char>| character.is_some_and(is_of_identifier);
    code.match_indices(word).any(|(start, _)| {
        let rest = &code[start + word.len()..];
        !is_part(code[..start].chars().next_back())
            && rest.starts_with(after)
            && (!after.is_empty() || !is_part(rest.chars().next()))
    })
}

fn is_of_identifier(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// The length in bytes of the comment or literal with which `rest` begins; 0 if it begins with code.
fn non_code_length(rest: &str, before: Option<char>) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return block_comment_length(rest);
    }
    if rest.starts_with('"') {
        return string_length(rest);
    }
    if rest.starts_with('\'') {
        return character_length(rest);
    }
    if rest.starts_with('r') && !before.is_some_and(|before| before != 'b' && is_of_identifier(before)) {
        return raw_string_length(rest);
    }
    0
}

fn block_comment_length(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

fn string_length(rest: &str) -> usize {
    let mut escaped = false;
    for (at, character) in rest.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// A character literal; 0 for a lifetime, which begins in the same way.
fn character_length(rest: &str) -> usize {
    let mut characters = rest.char_indices().skip(1);
    match characters.next() {
        Some((_, '\\')) => rest[3..].find('\'').map_or(0, |end| end + 4),
        Some(_) => match characters.next() {
            Some((at, '\'')) => at + 1,
            _ => 0,
        },
        None => 0,
    }
}

fn raw_string_length(rest: &str) -> usize {
    let hashes = rest[1..].chars().take_while(|&c| c == '#').count();
    if !rest[1 + hashes..].starts_with('"') {
        return 0;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    let start = hashes + 2;
    rest[start..].find(&end).map_or(rest.len(), |at| start + at + end.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked() {
        let source = "let a = \"unsafe \\\" unsafe\"; // unsafe\nlet b = '\"'; /* unsafe /* x */ unsafe */ let c = r#\"unsafe\"#;\nfn f<'a>(x: &'a str) { unsafe {} }";
        let code = code_of(source);
        assert_eq!(code.matches("unsafe").count(), 1);
        assert_eq!(code.lines().count(), source.lines().count());
        assert!(code.contains("fn f<'a>(x: &'a str) { unsafe {} }"));
    }

    #[test]
    fn words_are_found_whole() {
        assert!(has_word("unsafe { }", "unsafe", ""));
        assert!(!has_word("#![forbid(unsafe_code)]", "unsafe", ""));
        assert!(has_word("use kube::Client;", "kube", "::"));
        assert!(!has_word("use my_kube::Client;", "kube", "::"));
    }
}
