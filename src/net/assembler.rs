//! Frames out of a stream, however its bytes are split over reads. It takes memory for a frame only after the
//! frame's length passed, and what it hands over pins no other frame's memory.

use std::mem;

use bytes::Bytes;

use super::frame::{Frame, FrameError, FrameHeader, HEADER_BYTES};

/// Room of the buffer into which small frames are read, many at a time.
const SCAN_BYTES: usize = 64 * 1024;

/// A frame longer than this gets a buffer of its own, of exactly its length, and is handed over without a copy but
/// for what the scan had already read of it. A shorter one is copied out of the scan buffer: what a receiver keeps of
/// it (a cached entry, a wait) then keeps nothing else alive, and the scan buffer is used again.
const COPIED_BYTES_MAX: usize = 16 * 1024;

const _: () = assert!(HEADER_BYTES + COPIED_BYTES_MAX <= SCAN_BYTES, "a small frame fits the scan buffer");

/// Gathers what a stream delivers. Ask [`Assembler::next_frame`] until it has none, then read more:
/// [`Assembler::take_buffer`], append to it, [`Assembler::give_back`].
#[derive(Debug)]
pub struct Assembler {
    payload_bytes_max: usize,
    /// Bytes that were read and are not yet part of a frame begin at `scanned`.
    scan: Vec<u8>,
    scanned: usize,
    /// A long frame that is being read; the scan buffer is empty then.
    long: Option<LongFrame>,
}

#[derive(Debug)]
struct LongFrame {
    header: FrameHeader,
    /// Its capacity is the payload's length from the start.
    payload: Vec<u8>,
}

impl LongFrame {
    fn missing_bytes(&self) -> usize {
        self.header.payload_bytes - self.payload.len()
    }
}

impl Assembler {
    #[must_use]
    pub fn new(payload_bytes_max: usize) -> Assembler {
        Assembler { payload_bytes_max, scan: Vec::new(), scanned: 0, long: None }
    }

    /// From the next frame on, longer payloads pass: the other side has said who it is.
    pub fn set_payload_bytes_max(&mut self, payload_bytes_max: usize) {
        self.payload_bytes_max = payload_bytes_max;
    }

    /// Whether the stream stands between two frames; where it ends otherwise, it was cut.
    #[must_use]
    pub fn is_between_frames(&self) -> bool {
        self.long.is_none() && self.scanned == self.scan.len()
    }

    /// A buffer to which the next read appends at most the given number of bytes. It must come back.
    pub fn take_buffer(&mut self) -> (Vec<u8>, usize) {
        if let Some(long) = &mut self.long {
            // Not a byte more than this frame needs: the next one begins in the scan buffer.
            let missing = long.missing_bytes();
            return (mem::take(&mut long.payload), missing);
        }
        self.scan.drain(..self.scanned);
        self.scanned = 0;
        let room = self.scan_bytes() - self.scan.len();
        self.scan.reserve_exact(room);
        (mem::take(&mut self.scan), room)
    }

    /// Takes back the buffer of `take_buffer`, with what was read appended.
    pub fn give_back(&mut self, buffer: Vec<u8>) {
        if let Some(long) = &mut self.long {
            assert!(buffer.len() <= long.header.payload_bytes, "no more was read than asked for");
            long.payload = buffer;
        } else {
            assert!(buffer.len() <= SCAN_BYTES, "no more was read than asked for");
            self.scan = buffer;
        }
    }

    /// While only short frames pass, a stream takes no more memory than one of them.
    fn scan_bytes(&self) -> usize {
        SCAN_BYTES.min(HEADER_BYTES + self.payload_bytes_max)
    }

    /// The next whole frame; none until more is read. After an error the stream must be dropped.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        if let Some(long) = self.long.take_if(|long| long.missing_bytes() == 0) {
            return long.header.complete(Bytes::from(long.payload)).map(Some);
        }
        let unread = &self.scan[self.scanned..];
        FrameHeader::check_magic(unread)?;
        let Some((header, behind)) = unread.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let header = FrameHeader::decode(header, self.payload_bytes_max)?;
        if let Some(payload) = behind.get(..header.payload_bytes) {
            self.scanned += HEADER_BYTES + header.payload_bytes;
            return header.complete(Bytes::copy_from_slice(payload)).map(Some);
        }
        if header.payload_bytes > COPIED_BYTES_MAX {
            let mut payload = Vec::with_capacity(header.payload_bytes);
            payload.extend_from_slice(behind);
            self.long = Some(LongFrame { header, payload });
            self.scan.clear();
            self.scanned = 0;
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::{FrameBuilder, FrameKind};
    use super::*;
    use proptest::prelude::*;

    const PAYLOAD_BYTES_MAX: usize = 300_000;

    fn encoded(payload: &[u8]) -> Vec<u8> {
        let mut builder = FrameBuilder::new();
        builder.attach(Bytes::copy_from_slice(payload));
        builder.finish(FrameKind::Message, PAYLOAD_BYTES_MAX).expect("short enough").chunks.concat()
    }

    /// Feeds `stream` in reads of the given lengths (the last is repeated) and gives all frames up to the first error.
    fn assemble(stream: &[u8], reads: &[usize]) -> (Vec<Frame>, Result<(), FrameError>, Assembler) {
        let mut assembler = Assembler::new(PAYLOAD_BYTES_MAX);
        let mut frames = Vec::new();
        let mut rest = stream;
        let mut reads = reads.iter().copied().chain(std::iter::repeat(*reads.last().expect("one read")));
        loop {
            match assembler.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) if rest.is_empty() => return (frames, Ok(()), assembler),
                Ok(None) => {
                    let (mut buffer, room) = assembler.take_buffer();
                    assert!(room > 0, "a read of nothing looks like the end of the stream");
                    let (now, later) = rest.split_at(room.min(rest.len()).min(reads.next().expect("endless").max(1)));
                    buffer.extend_from_slice(now);
                    assembler.give_back(buffer);
                    rest = later;
                }
                Err(error) => return (frames, Err(error), assembler),
            }
        }
    }

    fn payloads() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let lengths = prop_oneof![
            4 => 0usize..200,
            1 => COPIED_BYTES_MAX - 2..COPIED_BYTES_MAX + 3,
            1 => SCAN_BYTES - HEADER_BYTES - 2..SCAN_BYTES + 3,
            1 => 100_000usize..200_000,
        ];
        prop::collection::vec((lengths, any::<u8>()).prop_map(|(bytes, seed)| vec![seed; bytes]), 0..6)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn any_split_of_the_stream_gives_the_same_frames(
            payloads in payloads(),
            reads in prop::collection::vec(prop_oneof![1usize..50, 1usize..100_000], 1..20),
        ) {
            let stream: Vec<u8> = payloads.iter().flat_map(|payload| encoded(payload)).collect();
            let (frames, end, assembler) = assemble(&stream, &reads);
            prop_assert_eq!(end, Ok(()));
            prop_assert!(assembler.is_between_frames());
            let found: Vec<Vec<u8>> = frames.into_iter().map(|frame| frame.payload.to_vec()).collect();
            prop_assert_eq!(found, payloads);
        }

        #[test]
        fn a_cut_stream_gives_the_frames_before_the_cut_and_no_other(payloads in payloads(), cut in any::<prop::sample::Index>()) {
            let stream: Vec<u8> = payloads.iter().flat_map(|payload| encoded(payload)).collect();
            let cut = if stream.is_empty() { 0 } else { cut.index(stream.len()) };
            let (frames, end, assembler) = assemble(&stream[..cut], &[1000]);
            prop_assert_eq!(end, Ok(()));
            let whole: usize = frames.iter().map(|frame| HEADER_BYTES + frame.payload.len()).sum();
            prop_assert_eq!(assembler.is_between_frames(), whole == cut);
            for (frame, payload) in frames.iter().zip(&payloads) {
                prop_assert_eq!(&frame.payload[..], &payload[..]);
            }
        }

        #[test]
        fn damage_is_an_error_and_what_came_before_it_is_not(
            payloads in payloads(),
            at in any::<prop::sample::Index>(),
            bit in 0u8..8,
        ) {
            let mut stream: Vec<u8> = payloads.iter().flat_map(|payload| encoded(payload)).collect();
            prop_assume!(!stream.is_empty());
            let at = at.index(stream.len());
            stream[at] ^= 1 << bit;
            let (frames, end, _) = assemble(&stream, &[5000]);
            prop_assert!(end.is_err());
            let whole: usize = frames.iter().map(|frame| HEADER_BYTES + frame.payload.len()).sum();
            prop_assert!(whole <= at);
        }

        #[test]
        fn a_damaged_stream_gives_the_same_frames_and_the_same_error_however_it_is_split(
            payloads in payloads(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..3), 0..4),
            reads in prop::collection::vec(prop_oneof![1usize..50, 1usize..100_000], 1..20),
        ) {
            let mut stream: Vec<u8> = payloads.iter().flat_map(|payload| encoded(payload)).collect();
            for (at, value, change) in changes {
                let at = at.index(stream.len() + 1);
                match change {
                    0 => stream.insert(at, value),
                    1 if at < stream.len() => drop(stream.remove(at)),
                    _ => stream.truncate(at.max(20)),
                }
            }
            let (whole, whole_end, _) = assemble(&stream, &[SCAN_BYTES]);
            let (split, split_end, _) = assemble(&stream, &reads);
            prop_assert_eq!(whole, split);
            prop_assert_eq!(whole_end, split_end);
        }

        #[test]
        fn garbage_never_panics(stream in prop::collection::vec(any::<u8>(), 0..4096), read in 1usize..100) {
            let (frames, ..) = assemble(&stream, &[read]);
            prop_assert!(frames.is_empty());
        }
    }

    #[test]
    fn a_frame_over_the_limit_takes_no_memory() {
        let mut assembler = Assembler::new(4096);
        let (mut buffer, _) = assembler.take_buffer();
        buffer.extend_from_slice(&encoded(&vec![7; 5000])[..HEADER_BYTES]);
        assembler.give_back(buffer);
        assert_eq!(assembler.next_frame(), Err(FrameError::TooLong { bytes: 5000, bytes_max: 4096 }));
        assert!(assembler.long.is_none());
    }

    #[test]
    fn a_stranger_gets_no_larger_buffer_than_its_first_frame_may_need() {
        let mut assembler = Assembler::new(4096);
        let (buffer, room) = assembler.take_buffer();
        assert_eq!((room, buffer.capacity()), (4096 + HEADER_BYTES, 4096 + HEADER_BYTES));
        assembler.give_back(buffer);
        assembler.set_payload_bytes_max(PAYLOAD_BYTES_MAX);
        assert_eq!(assembler.take_buffer().1, SCAN_BYTES);
    }

    #[test]
    fn a_long_frame_is_handed_over_in_the_buffer_it_was_read_into() {
        let stream = encoded(&vec![7; 200_000]);
        let mut assembler = Assembler::new(PAYLOAD_BYTES_MAX);
        let (mut buffer, room) = assembler.take_buffer();
        let (first, rest) = stream.split_at(room);
        buffer.extend_from_slice(first);
        assembler.give_back(buffer);
        assert_eq!(assembler.next_frame(), Ok(None));
        let (mut buffer, room) = assembler.take_buffer();
        assert_eq!(room, rest.len(), "exactly what is missing");
        let address = buffer.as_ptr();
        buffer.extend_from_slice(rest);
        assembler.give_back(buffer);
        let frame = assembler.next_frame().expect("undamaged").expect("whole");
        assert_eq!(frame.payload.as_ptr(), address);
    }
}
