//! What somebody may have meant by a word that is not one of ours.

/// The known word that is nearest to what was written, if one is near enough to be meant.
pub(crate) fn nearest<'w>(written: &str, known: impl IntoIterator<Item = &'w str>) -> Option<&'w str> {
    let written = written.to_lowercase().replace('-', "_");
    let allowed = ((written.chars().count() + 1) / 3).max(1);
    known
        .into_iter()
        .map(|word| (strsim::damerau_levenshtein(&written, word), word))
        .filter(|&(distance, word)| distance <= allowed && distance < word.len())
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, word)| word)
}

/// A text as a name: small letters, digits and hyphens.
pub(crate) fn slug(text: &str, max_chars: usize) -> Option<String> {
    let mut slug = String::new();
    for character in text.chars() {
        if character.is_ascii_alphanumeric() {
            slug.push(character.to_ascii_lowercase());
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    slug.truncate(max_chars);
    let slug = slug.trim_end_matches('-');
    (!slug.is_empty()).then(|| slug.to_owned())
}

/// A text as a TOML string, in the quotes that need no escapes where there are such.
pub(crate) fn toml_string(text: &str) -> String {
    if !text.contains(['"', '\\']) && !text.contains(char::is_control) {
        format!("\"{text}\"")
    } else if !text.contains('\'') && !text.contains(char::is_control) {
        format!("'{text}'")
    } else {
        toml::Value::String(text.to_owned()).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_found_and_far_ones_are_not() {
        let known = ["ports", "paths", "to", "action"];
        assert_eq!(nearest("port", known), Some("ports"));
        assert_eq!(nearest("Actoin", known), Some("action"));
        assert_eq!(nearest("zz", known), None);
        assert_eq!(nearest("x", known), None);
        assert_eq!(nearest("directory", known), None);
    }

    #[test]
    fn slugs_are_names() {
        assert_eq!(slug("My Policy!", 63).as_deref(), Some("my-policy"));
        assert_eq!(slug("--", 63), None);
        assert_eq!(slug("abc def", 4).as_deref(), Some("abc"));
    }

    #[test]
    fn strings_get_the_quotes_they_need() {
        assert_eq!(toml_string("a"), r#""a""#);
        assert_eq!(toml_string(r"a\b"), r"'a\b'");
    }
}
