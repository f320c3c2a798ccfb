//! Where the running kernel keeps the fields of its structs, read from `/sys/kernel/btf/vmlinux`.
//!
//! Aya parses the same file for its own relocations but keeps the members of structs to itself, hence this
//! reader. The format is <https://docs.kernel.org/bpf/btf.html>. It indexes structs, functions and typedefs by
//! name, and follows members through anonymous structs and unions, where kernels move fields to and fro.
//!
//! Nothing here panics on a file that is not BTF, or is broken: each read is checked.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
};

/// The file of the running kernel.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u32 = 0xeb9f;
const HEADER_BYTES: usize = 24;
const TYPE_BYTES: usize = 12;
const MEMBER_BYTES: usize = 12;

/// Modifiers and typedefs in a row that are looked through; broken data could go round in a circle.
const CHAIN_MAX: usize = 32;
/// Anonymous structs within each other; as above.
const NESTING_MAX: usize = 16;

mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const PTR: u32 = 2;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const FWD: u32 = 7;
    pub(super) const TYPEDEF: u32 = 8;
    pub(super) const VOLATILE: u32 = 9;
    pub(super) const CONST: u32 = 10;
    pub(super) const RESTRICT: u32 = 11;
    pub(super) const FUNC: u32 = 12;
    pub(super) const FUNC_PROTO: u32 = 13;
    pub(super) const VAR: u32 = 14;
    pub(super) const DATASEC: u32 = 15;
    pub(super) const FLOAT: u32 = 16;
    pub(super) const DECL_TAG: u32 = 17;
    pub(super) const TYPE_TAG: u32 = 18;
    pub(super) const ENUM64: u32 = 19;
}

/// Why the kernel's types cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is not there, or cannot be read.
    #[error("cannot read the kernel's types from `{}`: the kernel needs CONFIG_DEBUG_INFO_BTF", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is something else.
    #[error("not BTF of this machine's byte order: it begins with {magic:#06x}, expected {MAGIC:#06x}")]
    Magic {
        /// Its first two bytes.
        magic: u32,
    },
    /// The file ends too early.
    #[error("broken BTF: nothing at byte {at}")]
    Truncated {
        /// Where something should have been.
        at: usize,
    },
    /// A kernel newer than this reader.
    #[error("BTF kind {kind} of type {id} is unknown to this version of enforcer")]
    Kind {
        /// The kind.
        kind: u32,
        /// The type.
        id: u32,
    },
}

/// Why a field was not found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// The kernel has no such struct.
    #[error("there is no `struct {structure}`")]
    NoStruct {
        /// Its name.
        structure: String,
    },
    /// The struct has no such field.
    #[error("`struct {structure}` has no field `{path}`: nothing is called `{member}` there")]
    NoField {
        /// The struct.
        structure: String,
        /// The whole path.
        path: String,
        /// The part of it that was not found.
        member: String,
    },
    /// The field does not begin at a byte.
    #[error("`{structure}.{path}` is a bit field, which cannot be loaded by itself")]
    BitField {
        /// The struct.
        structure: String,
        /// The path.
        path: String,
    },
}

/// The types of a kernel.
pub struct Btf {
    data: Vec<u8>,
    /// Where the strings begin in `data`.
    strings: usize,
    /// Where each type begins in `data`, by its id; id 0 is void and has no place.
    types: Vec<usize>,
    structs: HashMap<String, u32>,
    functions: HashMap<String, u32>,
    typedefs: HashMap<String, u32>,
}

impl Btf {
    /// The types of the running kernel.
    pub fn of_kernel() -> Result<Self, Error> {
        Self::read(Path::new(VMLINUX))
    }

    /// The types in a file.
    pub fn read(path: &Path) -> Result<Self, Error> {
        Self::parse(fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?)
    }

    /// The types in memory.
    pub fn parse(data: Vec<u8>) -> Result<Self, Error> {
        let mut btf = Self {
            data,
            strings: 0,
            types: vec![0],
            structs: HashMap::new(),
            functions: HashMap::new(),
            typedefs: HashMap::new(),
        };
        let magic = btf.word(0)? & 0xffff;
        if magic != MAGIC {
            return Err(Error::Magic { magic });
        }
        let header = btf.word(4)? as usize;
        if header < HEADER_BYTES {
            return Err(Error::Truncated { at: header });
        }
        let types = header.saturating_add(btf.word(8)? as usize);
        let end = types.saturating_add(btf.word(12)? as usize);
        btf.strings = header.saturating_add(btf.word(16)? as usize);
        btf.index(types, end)?;
        Ok(btf)
    }

    fn index(&mut self, mut at: usize, end: usize) -> Result<(), Error> {
        while at < end {
            let id = self.types.len() as u32;
            let info = Info(self.word(at + 4)?);
            let name = self.word(at)?;
            if name != 0 {
                let name = self.string(name)?;
                let index = match info.kind() {
                    kind::STRUCT => Some(&mut self.structs),
                    kind::FUNC => Some(&mut self.functions),
                    kind::TYPEDEF => Some(&mut self.typedefs),
                    _ => None,
                };
                if let Some(index) = index {
                    index.entry(name).or_insert(id);
                }
            }
            self.types.push(at);
            let trailer = info.trailer_bytes().ok_or(Error::Kind { kind: info.kind(), id })?;
            at += TYPE_BYTES + trailer;
        }
        Ok(())
    }

    /// The id of a function, for what attaches to it.
    #[must_use]
    pub fn function(&self, name: &str) -> Option<u32> {
        self.functions.get(name).copied()
    }

    /// The id of a typedef, for what attaches to a tracepoint (`btf_trace_NAME`).
    #[must_use]
    pub fn typedef(&self, name: &str) -> Option<u32> {
        self.typedefs.get(name).copied()
    }

    /// Bytes from the start of `struct structure` to the field at `path`, for example `f_path.dentry`.
    pub fn offset(&self, structure: &str, path: &str) -> Result<u64, FieldError> {
        let mut id = *self
            .structs
            .get(structure)
            .ok_or_else(|| FieldError::NoStruct { structure: structure.to_owned() })?;
        let mut bits = 0_u64;
        for part in path.split('.') {
            let member = self.member(id, part, NESTING_MAX).ok_or_else(|| FieldError::NoField {
                structure: structure.to_owned(),
                path: path.to_owned(),
                member: part.to_owned(),
            })?;
            bits += member.bits;
            id = member.id;
        }
        if bits.is_multiple_of(8) {
            Ok(bits / 8)
        } else {
            Err(FieldError::BitField { structure: structure.to_owned(), path: path.to_owned() })
        }
    }

    /// A member of a struct or union, or of one without a name within it.
    fn member(&self, id: u32, wanted: &str, nesting: usize) -> Option<Member> {
        let at = self.look_through(id)?;
        let info = Info(self.word(at + 4).ok()?);
        if nesting == 0 || !matches!(info.kind(), kind::STRUCT | kind::UNION) {
            return None;
        }
        (0..info.length()).find_map(|index| {
            let at = at + TYPE_BYTES + MEMBER_BYTES * index;
            let (name, id, raw) = (self.word(at).ok()?, self.word(at + 4).ok()?, self.word(at + 8).ok()?);
            // With the flag set the upper byte is the width of a bit field.
            let bits = u64::from(if info.flag() { raw & 0x00ff_ffff } else { raw });
            if name == 0 {
                let inner = self.member(id, wanted, nesting - 1)?;
                return Some(Member { bits: bits + inner.bits, id: inner.id });
            }
            (self.bytes(name) == Some(wanted.as_bytes())).then_some(Member { bits, id })
        })
    }

    /// Where the type behind typedefs and modifiers begins.
    fn look_through(&self, mut id: u32) -> Option<usize> {
        for _ in 0..CHAIN_MAX {
            let at = *self.types.get(id as usize).filter(|_| id != 0)?;
            match Info(self.word(at + 4).ok()?).kind() {
                kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => {
                    id = self.word(at + 8).ok()?;
                }
                _ => return Some(at),
            }
        }
        None
    }

    fn word(&self, at: usize) -> Result<u32, Error> {
        let bytes = self.data.get(at..).and_then(|rest| rest.first_chunk::<4>());
        bytes.map(|bytes| u32::from_ne_bytes(*bytes)).ok_or(Error::Truncated { at })
    }

    fn bytes(&self, offset: u32) -> Option<&[u8]> {
        let rest = self.data.get(self.strings.saturating_add(offset as usize)..)?;
        rest.split(|byte| *byte == 0).next()
    }

    fn string(&self, offset: u32) -> Result<String, Error> {
        let bytes = self.bytes(offset).ok_or(Error::Truncated { at: self.strings + offset as usize })?;
        Ok(String::from_utf8_lossy(bytes).into_owned())
    }
}

struct Member {
    bits: u64,
    id: u32,
}

/// The second word of a type.
#[derive(Clone, Copy)]
struct Info(u32);

impl Info {
    fn kind(self) -> u32 {
        self.0 >> 24 & 0x1f
    }

    fn length(self) -> usize {
        (self.0 & 0xffff) as usize
    }

    fn flag(self) -> bool {
        self.0 >> 31 == 1
    }

    /// Bytes after the three words that every type has.
    fn trailer_bytes(self) -> Option<usize> {
        Some(match self.kind() {
            kind::PTR | kind::FWD | kind::FUNC | kind::FLOAT | kind::TYPE_TAG => 0,
            kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT => 0,
            kind::INT | kind::VAR | kind::DECL_TAG => 4,
            kind::ARRAY => 12,
            kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => 12 * self.length(),
            kind::ENUM | kind::FUNC_PROTO => 8 * self.length(),
            _ => return None,
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::{Btf, Error, FieldError, HEADER_BYTES, kind};

    /// Builds BTF by hand, type after type.
    pub(in crate::kernel) struct Builder {
        types: Vec<u8>,
        strings: Vec<u8>,
        count: u32,
    }

    impl Builder {
        pub(in crate::kernel) fn new() -> Self {
            Self { types: Vec::new(), strings: vec![0], count: 0 }
        }

        fn string(&mut self, text: &str) -> u32 {
            if text.is_empty() {
                return 0;
            }
            let at = self.strings.len() as u32;
            self.strings.extend_from_slice(text.as_bytes());
            self.strings.push(0);
            at
        }

        fn words(&mut self, words: &[u32]) {
            self.types.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
        }

        pub(in crate::kernel) fn add(
            &mut self,
            kind: u32,
            name: &str,
            size_or_type: u32,
            trailer: &[u32],
        ) -> u32 {
            let name = self.string(name);
            self.words(&[name, kind << 24, size_or_type]);
            self.words(trailer);
            self.count += 1;
            self.count
        }

        /// A struct or union; each member is (name, type, offset in bits).
        pub(in crate::kernel) fn structure(
            &mut self,
            kind: u32,
            name: &str,
            flag: bool,
            members: &[(&str, u32, u32)],
        ) -> u32 {
            let name = self.string(name);
            let members: Vec<_> = members.iter().map(|(n, t, o)| (self.string(n), *t, *o)).collect();
            self.words(&[name, kind << 24 | u32::from(flag) << 31 | members.len() as u32, 64]);
            for (name, id, offset) in members {
                self.words(&[name, id, offset]);
            }
            self.count += 1;
            self.count
        }

        pub(in crate::kernel) fn build(self) -> Vec<u8> {
            let (types, strings) = (self.types.len() as u32, self.strings.len() as u32);
            let words = [0x0001_eb9f, HEADER_BYTES as u32, 0, types, types, strings];
            let mut out: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
            out.extend(self.types);
            out.extend(self.strings);
            out
        }
    }

    fn sample() -> Btf {
        let mut btf = Builder::new();
        let int = btf.add(kind::INT, "int", 4, &[32]);
        let pointer = btf.add(kind::PTR, "", int, &[]);
        let path =
            btf.structure(kind::STRUCT, "path", false, &[("mnt", pointer, 0), ("dentry", pointer, 64)]);
        let constant = btf.add(kind::CONST, "", path, &[]);
        let typedef = btf.add(kind::TYPEDEF, "path_t", constant, &[]);
        let inner = btf.structure(kind::UNION, "", false, &[("f_path", typedef, 0), ("__f_path", path, 0)]);
        btf.structure(kind::STRUCT, "file", false, &[("f_mode", int, 32), ("", inner, 128)]);
        btf.structure(
            kind::STRUCT,
            "bits",
            true,
            &[("whole", int, 32 << 24 | 32), ("few", int, 3 << 24 | 69)],
        );
        let proto = btf.add(kind::FUNC_PROTO, "", 0, &[]);
        btf.add(kind::FUNC, "bpf_lsm_file_open", proto, &[]);
        Btf::parse(btf.build()).unwrap()
    }

    #[test]
    fn a_field_is_found_through_anonymous_unions_and_typedefs() {
        let btf = sample();
        assert_eq!(btf.offset("file", "f_mode"), Ok(4));
        assert_eq!(btf.offset("file", "f_path"), Ok(16));
        assert_eq!(btf.offset("file", "f_path.dentry"), Ok(24));
    }

    #[test]
    fn a_bit_field_is_found_where_it_begins_at_a_byte() {
        let btf = sample();
        assert_eq!(btf.offset("bits", "whole"), Ok(4));
        let error = FieldError::BitField { structure: "bits".into(), path: "few".into() };
        assert_eq!(btf.offset("bits", "few"), Err(error));
    }

    #[test]
    fn what_is_missing_is_named() {
        let btf = sample();
        let message = |structure, path| btf.offset(structure, path).unwrap_err().to_string();
        assert_eq!(message("folder", "x"), "there is no `struct folder`");
        assert_eq!(
            message("file", "f_path.inode"),
            "`struct file` has no field `f_path.inode`: nothing is called `inode` there"
        );
        assert_eq!(
            message("file", "f_mode.x"),
            "`struct file` has no field `f_mode.x`: nothing is called `x` there"
        );
    }

    #[test]
    fn functions_and_typedefs_have_ids() {
        let btf = sample();
        assert_eq!(btf.typedef("path_t"), Some(5));
        assert_eq!(btf.function("bpf_lsm_file_open"), Some(10));
        assert_eq!(btf.function("path_t"), None);
    }

    #[test]
    fn broken_data_is_an_error_wherever_it_ends() {
        let mut btf = Builder::new();
        let int = btf.add(kind::INT, "int", 4, &[32]);
        btf.structure(kind::STRUCT, "file", false, &[("f_mode", int, 32)]);
        let whole = btf.build();
        for end in 0..whole.len() - "file\0f_mode\0".len() {
            assert!(Btf::parse(whole[..end].to_vec()).is_err(), "cut at {end}");
        }
        assert!(matches!(Btf::parse(b"\x7fELF....".to_vec()), Err(Error::Magic { .. })));
    }

    #[test]
    fn a_circle_of_typedefs_ends() {
        let mut btf = Builder::new();
        btf.add(kind::TYPEDEF, "a", 2, &[]);
        btf.add(kind::TYPEDEF, "b", 1, &[]);
        btf.structure(kind::STRUCT, "s", false, &[("x", 1, 0)]);
        assert!(Btf::parse(btf.build()).unwrap().offset("s", "x.y").is_err());
    }

    #[test]
    fn an_unknown_kind_is_named() {
        let mut btf = Builder::new();
        btf.add(29, "new", 0, &[]);
        assert!(matches!(Btf::parse(btf.build()), Err(Error::Kind { kind: 29, id: 1 })));
    }
}
