//! The frame: how a message between nodes lies on a stream. A frame that exists has passed every length and
//! checksum; nothing here reads a payload's meaning, and no length is believed before it is compared with the maximum.
//!
//! ```text
//!  0      4    5    6      8              12            16           20
//!  +------+----+----+------+--------------+-------------+------------+---- - - - ----+
//!  | BvRf | v  |kind| zero | payload bytes| payload crc | header crc |    payload    |
//!  +------+----+----+------+--------------+-------------+------------+---- - - - ----+
//! ```
//!
//! Integers are little endian, checksums CRC32C; that of the header covers the sixteen bytes before it. The header
//! has its own so that a damaged length is noticed before anything waits, or takes memory, for that many bytes.

use bytes::Bytes;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The first bytes of every frame.
const MAGIC: [u8; 4] = *b"BvRf";

/// Version of the header's layout. What the payloads mean is agreed in the handshake.
const FRAME_VERSION: u8 = 1;

pub const HEADER_BYTES: usize = size_of::<RawHeader>();

/// How much of the header its own checksum covers.
const CHECKED_BYTES: usize = HEADER_BYTES - size_of::<U32>();

/// What a payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    Hello = 1,
    Welcome = 2,
    Refused = 3,
    Message = 4,
}

/// A payload that arrived whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: FrameKind,
    pub payload: Bytes,
}

/// Why a stream can't be read any further. Where one frame is wrong, nothing says where the next begins.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("the stream is not one of Beaver-Raft peers: a frame begins with {found:02x?}")]
    Magic { found: [u8; 4] },
    #[error("a frame header is damaged: its checksum is {computed:08x}, it says {stored:08x}")]
    HeaderChecksum { stored: u32, computed: u32 },
    #[error("a frame of version {found}, this node reads version {FRAME_VERSION}")]
    Version { found: u8 },
    #[error("a frame of unknown kind {found}")]
    Kind { found: u8 },
    #[error("a frame header has {found:#06x} where zero must be")]
    Reserved { found: u16 },
    #[error("a frame of {bytes} bytes, the longest allowed is {bytes_max}")]
    TooLong { bytes: usize, bytes_max: usize },
    #[error("a frame's payload is damaged: its checksum is {computed:08x}, the header says {stored:08x}")]
    PayloadChecksum { stored: u32, computed: u32 },
}

/// A message too long for one frame is never sent: the peer would have to close the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message of {bytes} bytes does not fit a frame of at most {bytes_max}")]
pub struct MessageTooLong {
    pub bytes: usize,
    pub bytes_max: usize,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawHeader {
    magic: [u8; 4],
    version: u8,
    kind: u8,
    reserved: U16,
    payload_bytes: U32,
    payload_crc: U32,
    header_crc: U32,
}

const _: () = assert!(HEADER_BYTES == 20, "the layout drawn above");

/// A header whose checksum and length were proven: what the bytes behind it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    pub kind: FrameKind,
    pub payload_bytes: usize,
    payload_crc: u32,
}

impl FrameHeader {
    /// Whether a frame may begin with these bytes, as soon as there are enough to say: a stranger that sends less than
    /// a header is not waited for.
    pub fn check_magic(bytes: &[u8]) -> Result<(), FrameError> {
        match bytes.first_chunk() {
            Some(&found) if found != MAGIC => Err(FrameError::Magic { found }),
            _ => Ok(()),
        }
    }

    /// `payload_bytes_max`: the longest payload that the reader will take memory for.
    pub fn decode(bytes: &[u8; HEADER_BYTES], payload_bytes_max: usize) -> Result<FrameHeader, FrameError> {
        FrameHeader::check_magic(bytes)?;
        let raw = RawHeader::ref_from_bytes(bytes).expect("as long as the header, and it needs no alignment");
        let (stored, computed) = (raw.header_crc.get(), header_checksum(raw));
        if stored != computed {
            return Err(FrameError::HeaderChecksum { stored, computed });
        }
        if raw.version != FRAME_VERSION {
            return Err(FrameError::Version { found: raw.version });
        }
        if raw.reserved.get() != 0 {
            return Err(FrameError::Reserved { found: raw.reserved.get() });
        }
        let kind = FrameKind::from_byte(raw.kind).ok_or(FrameError::Kind { found: raw.kind })?;
        let payload_bytes = raw.payload_bytes.get() as usize;
        if payload_bytes > payload_bytes_max {
            return Err(FrameError::TooLong { bytes: payload_bytes, bytes_max: payload_bytes_max });
        }
        Ok(FrameHeader { kind, payload_bytes, payload_crc: raw.payload_crc.get() })
    }

    /// The frame of this header, if `payload` is what the sender checked.
    pub fn complete(self, payload: Bytes) -> Result<Frame, FrameError> {
        assert_eq!(payload.len(), self.payload_bytes, "the reader gathers exactly what the header says");
        let computed = crc32c::crc32c(&payload);
        if computed != self.payload_crc {
            return Err(FrameError::PayloadChecksum { stored: self.payload_crc, computed });
        }
        Ok(Frame { kind: self.kind, payload })
    }
}

impl FrameKind {
    fn from_byte(byte: u8) -> Option<FrameKind> {
        [FrameKind::Hello, FrameKind::Welcome, FrameKind::Refused, FrameKind::Message]
            .into_iter()
            .find(|&kind| kind as u8 == byte)
    }
}

fn header_checksum(raw: &RawHeader) -> u32 {
    crc32c::crc32c(&raw.as_bytes()[..CHECKED_BYTES])
}

/// A frame under construction: fields are written into the head, long byte strings are attached behind it as they are.
#[derive(Debug)]
pub struct FrameBuilder {
    /// Begins with room for the header.
    head: Vec<u8>,
    tail: Vec<Bytes>,
}

/// A frame as it goes to a writer, in order.
#[derive(Debug, Clone)]
pub struct EncodedFrame {
    pub chunks: Vec<Bytes>,
    /// The sum of the chunks' lengths.
    pub bytes: usize,
}

impl FrameBuilder {
    #[must_use]
    pub fn new() -> FrameBuilder {
        let mut head = Vec::with_capacity(128);
        head.resize(HEADER_BYTES, 0);
        FrameBuilder { head, tail: Vec::new() }
    }

    /// Where fields are appended; all of them come before everything attached.
    pub fn fields(&mut self) -> &mut Vec<u8> {
        &mut self.head
    }

    /// Appends bytes to the payload without copying them.
    pub fn attach(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.tail.push(bytes);
        }
    }

    /// `payload_bytes_max`: what the other side accepts.
    pub fn finish(mut self, kind: FrameKind, payload_bytes_max: usize) -> Result<EncodedFrame, MessageTooLong> {
        let (room, fields) = self.head.split_at_mut(HEADER_BYTES);
        let payload_bytes = fields.len() + self.tail.iter().map(Bytes::len).sum::<usize>();
        let too_long = MessageTooLong { bytes: payload_bytes, bytes_max: payload_bytes_max };
        if payload_bytes > payload_bytes_max {
            return Err(too_long);
        }
        let length = u32::try_from(payload_bytes).map_err(|_| too_long)?;
        let payload_crc = self.tail.iter().fold(crc32c::crc32c(fields), |crc, chunk| crc32c::crc32c_append(crc, chunk));
        let mut raw = RawHeader {
            magic: MAGIC,
            version: FRAME_VERSION,
            kind: kind as u8,
            reserved: U16::ZERO,
            payload_bytes: U32::new(length),
            payload_crc: U32::new(payload_crc),
            header_crc: U32::ZERO,
        };
        raw.header_crc = U32::new(header_checksum(&raw));
        room.copy_from_slice(raw.as_bytes());

        let mut chunks = Vec::with_capacity(1 + self.tail.len());
        chunks.push(Bytes::from(self.head));
        chunks.append(&mut self.tail);
        Ok(EncodedFrame { chunks, bytes: HEADER_BYTES + payload_bytes })
    }
}

impl Default for FrameBuilder {
    fn default() -> FrameBuilder {
        FrameBuilder::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAYLOAD_BYTES_MAX: usize = 1000;

    fn framed(payload: &'static [u8]) -> Vec<u8> {
        let mut builder = FrameBuilder::new();
        let (fields, attached) = payload.split_at(payload.len() / 2);
        builder.fields().extend_from_slice(fields);
        builder.attach(Bytes::from_static(attached));
        builder.finish(FrameKind::Message, PAYLOAD_BYTES_MAX).expect("short enough").chunks.concat()
    }

    fn unframed(bytes: &[u8]) -> Result<Frame, FrameError> {
        let (header, payload) = bytes.split_first_chunk().expect("a header at least");
        let header = FrameHeader::decode(header, PAYLOAD_BYTES_MAX)?;
        header.complete(Bytes::copy_from_slice(&payload[..header.payload_bytes]))
    }

    #[test]
    fn a_frame_reads_as_it_was_built() {
        for payload in [&b""[..], b"a", b"a job and its body"] {
            let frame = unframed(&framed(payload)).expect("undamaged");
            assert_eq!((frame.kind, &frame.payload[..]), (FrameKind::Message, payload));
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let whole = framed(b"beavers build dams");
        for bit in 0..whole.len() * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let error = unframed(&damaged).expect_err("a flipped bit");
            match bit / 8 {
                0..4 => assert!(matches!(error, FrameError::Magic { .. })),
                4..20 => assert!(matches!(error, FrameError::HeaderChecksum { .. })),
                _ => assert!(matches!(error, FrameError::PayloadChecksum { .. })),
            }
        }
    }

    /// A header that someone made on purpose: the checksum is right.
    fn sealed(change: impl Fn(&mut RawHeader)) -> [u8; HEADER_BYTES] {
        let mut raw = *RawHeader::ref_from_bytes(&framed(b"")[..]).expect("a header");
        change(&mut raw);
        raw.header_crc = U32::new(header_checksum(&raw));
        raw.as_bytes().try_into().expect("a header is as long as itself")
    }

    #[test]
    fn a_header_that_is_whole_but_not_ours_is_refused_by_name() {
        let decode = |header| FrameHeader::decode(&header, PAYLOAD_BYTES_MAX).expect_err("must not pass");
        assert_eq!(decode(sealed(|raw| raw.version = 9)), FrameError::Version { found: 9 });
        assert_eq!(decode(sealed(|raw| raw.kind = 0)), FrameError::Kind { found: 0 });
        assert_eq!(decode(sealed(|raw| raw.kind = 5)), FrameError::Kind { found: 5 });
        assert_eq!(decode(sealed(|raw| raw.reserved = U16::new(1))), FrameError::Reserved { found: 1 });
        assert_eq!(
            decode(sealed(|raw| raw.payload_bytes = U32::new(1001))),
            FrameError::TooLong { bytes: 1001, bytes_max: PAYLOAD_BYTES_MAX }
        );
    }

    #[test]
    fn a_message_longer_than_a_frame_is_not_built() {
        let mut builder = FrameBuilder::new();
        builder.attach(Bytes::from(vec![0; PAYLOAD_BYTES_MAX + 1]));
        let error = builder.finish(FrameKind::Message, PAYLOAD_BYTES_MAX).expect_err("too long");
        assert_eq!(error, MessageTooLong { bytes: PAYLOAD_BYTES_MAX + 1, bytes_max: PAYLOAD_BYTES_MAX });
    }
}
