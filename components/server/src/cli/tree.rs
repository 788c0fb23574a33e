//! Directory trees as keys and values: which files there are, and which keys can be files.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::error::CliError;
use super::load::Item;

/// The files under a directory.
#[derive(Debug, Default)]
pub struct Tree {
    /// Regular files in ascending byte order of key, which is the path relative to the directory.
    pub files: Vec<Item>,
    /// Symbolic links, not followed.
    pub symlinks: u64,
    /// Sockets, pipes and devices, left out.
    pub special: u64,
}

impl Tree {
    /// Finds all files under `root`. `root` itself may be a symbolic link.
    ///
    /// # Errors
    /// A directory that cannot be read, or a root that is none.
    pub fn read(root: &Path) -> Result<Self, CliError> {
        if !fs::metadata(root).map_err(CliError::file(root))?.is_dir() {
            return Err(CliError::NotADirectory { path: root.to_owned() });
        }
        let mut tree = Self::default();
        let mut folders = vec![(root.to_owned(), Vec::new())];
        while let Some((folder, prefix)) = folders.pop() {
            for entry in fs::read_dir(&folder).map_err(CliError::file(&folder))? {
                let entry = entry.map_err(CliError::file(&folder))?;
                let path = entry.path();
                let mut key = prefix.clone();
                key.extend_from_slice(entry.file_name().as_bytes());
                // Of the entry itself: a symbolic link is not followed here.
                let metadata = entry.metadata().map_err(CliError::file(&path))?;
                let kind = metadata.file_type();
                if kind.is_symlink() {
                    tree.symlinks += 1;
                } else if kind.is_dir() {
                    key.push(b'/');
                    folders.push((path, key));
                } else if kind.is_file() {
                    tree.files.push(Item::File { key: key.into(), path, bytes: metadata.len() });
                } else {
                    tree.special += 1;
                }
            }
        }
        tree.files.sort_by(|a, b| a.key().cmp(b.key()));
        Ok(tree)
    }

    /// Takes out the files whose key and value together exceed `limit` bytes, and returns their names and sizes.
    pub fn split_off_large(&mut self, limit: u64) -> Vec<(String, u64)> {
        let large = |item: &Item| item.bytes() > limit;
        let found = self.files.iter().filter(|item| large(item));
        let found = found.map(|item| (super::text::show(item.key()), item.bytes())).collect();
        self.files.retain(|item| !large(item));
        found
    }
}

/// Why a key cannot be a file under a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnsafeKey {
    /// It has an empty part: it is empty, absolute, ends in a slash or has two in a row.
    #[error("a part of the path is empty")]
    EmptyPart,
    /// A part is `.` or `..`.
    #[error("the path leaves its directory or repeats it")]
    Dots,
    /// No file name can hold a NUL byte.
    #[error("the path holds a NUL byte")]
    Nul,
}

/// The file under `root` that a key names. The path is made of the key's own parts only, so it lies under `root`.
///
/// # Errors
/// The key is no plain relative path.
pub fn path_of(root: &Path, key: &Bytes) -> Result<PathBuf, UnsafeKey> {
    let mut path = root.to_owned();
    for part in key.split(|byte| *byte == b'/') {
        match part {
            b"" => return Err(UnsafeKey::EmptyPart),
            b"." | b".." => return Err(UnsafeKey::Dots),
            part if part.contains(&0) => return Err(UnsafeKey::Nul),
            part => path.push(OsStr::from_bytes(part)),
        }
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_in_byte_order_and_links_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir_all(root.join("a/deep")).unwrap();
        fs::write(root.join("a/deep/file"), "1").unwrap();
        fs::write(root.join("a.txt"), "22").unwrap();
        fs::write(root.join("empty"), "").unwrap();
        fs::write(root.join(OsStr::from_bytes(b"not-\xff-utf8")), "x").unwrap();
        std::os::unix::fs::symlink("a.txt", root.join("link")).unwrap();
        std::os::unix::fs::symlink(root, root.join("loop")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
        let mut tree = Tree::read(root).unwrap();
        let keys: Vec<&[u8]> = tree.files.iter().map(|item| &item.key()[..]).collect();
        assert_eq!(keys, [&b"a.txt"[..], b"a/deep/file", b"empty", b"not-\xff-utf8"]);
        assert_eq!((tree.symlinks, tree.special), (2, 1));
        assert_eq!(tree.split_off_large(8), [("a/deep/file".into(), 12), ("not-\\xff-utf8".into(), 11)]);
        assert_eq!(tree.files.len(), 2);
        assert!(matches!(Tree::read(&root.join("a.txt")), Err(CliError::NotADirectory { .. })));
        assert!(matches!(Tree::read(&root.join("missing")), Err(CliError::File { .. })));
    }

    #[test]
    fn keys_that_leave_the_directory_are_refused() {
        let root = Path::new("/r");
        let of = |key: &'static [u8]| path_of(root, &Bytes::from_static(key));
        assert_eq!(of(b"a/b.c/..d").unwrap(), Path::new("/r/a/b.c/..d"));
        for (key, reason) in [
            (&b"../x"[..], UnsafeKey::Dots),
            (b"a/../../x", UnsafeKey::Dots),
            (b"a/.", UnsafeKey::Dots),
            (b"/etc/passwd", UnsafeKey::EmptyPart),
            (b"a//b", UnsafeKey::EmptyPart),
            (b"a/", UnsafeKey::EmptyPart),
            (b"", UnsafeKey::EmptyPart),
            (b"a\0b", UnsafeKey::Nul),
        ] {
            assert_eq!(of(key), Err(reason), "{key:?}");
        }
    }
}
