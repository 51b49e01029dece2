//! Which known key an unknown one was probably meant to be.

use super::fields;

/// What a different section adds to the distance when the names of two settings are compared alone.
const OTHER_SECTION: usize = 2;

/// The known key nearest to this one by edit distance, either of the whole keys or of the settings'
/// names alone (a right setting in a wrong section).
pub(super) fn nearest(unknown: &str) -> &'static str {
    fields::all()
        .map(|field| field.key)
        .min_by_key(|known| {
            let whole = edit_distance(unknown, known);
            whole.min(edit_distance(last_part(unknown), last_part(known)) + OTHER_SECTION)
        })
        .unwrap_or_default()
}

fn last_part(key: &str) -> &str {
    key.rsplit_once('.').map_or(key, |(_, last)| last)
}

/// The Levenshtein distance: insertions, deletions and replacements of one character.
fn edit_distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    // One row of the usual table: distances from the part of `left` read so far to prefixes of `right`.
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (read, left_char) in left.chars().enumerate() {
        let mut diagonal = read;
        let mut before = read + 1;
        for (cell, right_char) in
            row.iter_mut().zip(std::iter::once(None).chain(right.iter().map(Some)))
        {
            let above = *cell;
            *cell = match right_char {
                None => before,
                Some(right_char) => {
                    let replaced = diagonal + usize::from(left_char != *right_char);
                    replaced.min(above + 1).min(before + 1)
                }
            };
            diagonal = above;
            before = *cell;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_edits() {
        assert_eq!(edit_distance("", ""), 0);
        assert_eq!(edit_distance("abc", ""), 3);
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("flaw", "lawn"), 2);
    }

    #[test]
    fn finds_misspelt_misplaced_and_sectionless_keys() {
        assert_eq!(nearest("server.nmae"), "server.name");
        assert_eq!(nearest("servr.data_dri"), "server.data_dir");
        assert_eq!(nearest("server.addresses"), "listen.addresses");
        assert_eq!(nearest("engine"), "store.engine");
        assert_eq!(nearest("listen.header_timeout"), "listen.header_timeout_s");
    }
}
