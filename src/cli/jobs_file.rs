//! Reads jobs from JSON, one at a time: an array, or objects one after the other (JSON lines). Never holds more than
//! one job and a buffer, however long the input; every error says where.

use std::io::{self, Read};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;
use thiserror::Error;

use crate::api::beanstalkd::request::BODY_BYTES_MAX_LIMIT;
use crate::job::codec::{TUBE_NAME_BYTES_MAX, tube_name_is_legal};

const BYTE_ORDER_MARK: [u8; 3] = *b"\xef\xbb\xbf";
const BUFFER_BYTES: usize = 64 << 10;
/// The largest body with every byte written as a six-byte escape, and room for the other fields.
const ELEMENT_BYTES_MAX: usize = 6 * BODY_BYTES_MAX_LIMIT as usize + (64 << 10);

/// A job to put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    pub tube: String,
    pub priority: u32,
    pub delay_s: u32,
    pub ttr_s: u32,
    pub body: Vec<u8>,
}

/// What a job gets that says nothing of it.
#[derive(Debug, Clone)]
pub struct Defaults {
    pub tube: String,
    pub priority: u32,
    pub delay_s: u32,
    pub ttr_s: u32,
}

/// Where a job stands in the input: the how-manieth it is, from 1, and the line on which it begins, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub number: u64,
    pub line: u64,
}

#[derive(Debug, Error)]
pub enum JobsError {
    #[error("reading failed: {0}")]
    Read(#[from] io::Error),
    #[error("line {}: job {}: {why}", place.line, place.number)]
    Job { place: Place, why: String },
    #[error("line {line}: {why}")]
    Form { line: u64, why: String },
}

/// What stands in the fields is looked at one by one, so that what is wrong is told by its name.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonJob<'a> {
    #[serde(borrow)]
    tube: Option<&'a RawValue>,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
    #[serde(borrow)]
    body_base64: Option<&'a RawValue>,
    #[serde(borrow)]
    priority: Option<&'a RawValue>,
    #[serde(borrow)]
    delay: Option<&'a RawValue>,
    #[serde(borrow)]
    ttr: Option<&'a RawValue>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Nothing but white space was read so far.
    Unknown,
    Objects,
    /// `first`: no element came yet, so there is no comma before the next one.
    Array {
        first: bool,
    },
    /// The array was closed.
    Done,
}

/// Jobs of one input, in their order.
pub struct Jobs<R> {
    input: R,
    buffer: Vec<u8>,
    at: usize,
    bytes_read: u64,
    line: u64,
    /// Jobs that were given out.
    number: u64,
    /// Where the job began of which a part was read.
    begun: Option<Place>,
    form: Form,
    /// Bytes seen of a byte order mark, which some editors put in front of everything.
    mark_bytes: usize,
    defaults: Defaults,
}

impl<R: Read> Jobs<R> {
    pub fn new(input: R, defaults: Defaults) -> Jobs<R> {
        Jobs {
            input,
            buffer: Vec::new(),
            at: 0,
            bytes_read: 0,
            line: 1,
            number: 0,
            begun: None,
            form: Form::Unknown,
            mark_bytes: 0,
            defaults,
        }
    }

    /// Bytes of the input that were looked at so far.
    pub fn bytes_consumed(&self) -> u64 {
        self.bytes_read - (self.buffer.len() - self.at) as u64
    }

    /// Where the next job stands, as far as that was read.
    pub fn upcoming(&self) -> Place {
        self.begun.unwrap_or(Place { number: self.number + 1, line: self.line })
    }

    /// The next job, or none at the end. `before_reading` is called whenever the input is asked for more, which may be
    /// long in coming: the moment to flush what was made of the jobs before.
    ///
    /// # Errors
    /// The first thing that is wrong; there is no use in asking again after it.
    pub fn next(&mut self, before_reading: &mut dyn FnMut()) -> Result<Option<(Place, Job)>, JobsError> {
        if !self.advance_to_element(before_reading)? {
            return Ok(None);
        }
        let place = self.upcoming();
        self.begun = Some(place);
        let text = self.element(place, before_reading)?;
        let job = parse(&text, &self.defaults).map_err(|why| JobsError::Job { place, why })?;
        self.begun = None;
        self.number = place.number;
        Ok(Some((place, job)))
    }

    /// Moves to the first byte of the next element; false at the end of the input.
    fn advance_to_element(&mut self, before_reading: &mut dyn FnMut()) -> Result<bool, JobsError> {
        loop {
            let next = self.skip_space(before_reading)?;
            match (self.form, next) {
                (Form::Unknown | Form::Objects | Form::Done, None) => return Ok(false),
                (Form::Array { .. }, None) => return Err(self.wrong("the input ends within the array: is it cut off?")),
                (Form::Unknown, Some(byte)) if BYTE_ORDER_MARK.get(self.mark_bytes) == Some(&byte) => {
                    self.at += 1;
                    self.mark_bytes += 1;
                }
                (Form::Unknown, Some(b'[')) => {
                    self.at += 1;
                    self.form = Form::Array { first: true };
                }
                (Form::Unknown | Form::Objects, Some(b'{')) => {
                    self.form = Form::Objects;
                    return Ok(true);
                }
                (Form::Array { first: true }, Some(b'{')) => {
                    self.form = Form::Array { first: false };
                    return Ok(true);
                }
                (Form::Array { .. }, Some(b']')) => {
                    self.at += 1;
                    self.form = Form::Done;
                }
                (Form::Array { first: false }, Some(b',')) => {
                    self.at += 1;
                    if self.skip_space(before_reading)? != Some(b'{') {
                        return Err(self.wrong("a job, an object in braces, must follow the comma"));
                    }
                    return Ok(true);
                }
                (Form::Array { first: false }, Some(_)) => {
                    return Err(self.wrong("a comma or the end of the array must follow a job"));
                }
                (Form::Done, Some(_)) => return Err(self.wrong("nothing may follow the array")),
                (_, Some(other)) => {
                    let shown = char::from(other);
                    return Err(self.wrong(&format!("a job is an object in braces; this begins with `{shown}`")));
                }
            }
        }
    }

    /// The text of the object that begins here: up to the brace that closes it, minding strings.
    fn element(&mut self, place: Place, before_reading: &mut dyn FnMut()) -> Result<Vec<u8>, JobsError> {
        let mut text = Vec::new();
        let (mut depth, mut in_string, mut escaped) = (0_u32, false, false);
        loop {
            if self.at == self.buffer.len() && !self.refill(before_reading)? {
                return Err(JobsError::Job { place, why: "the input ends within it: is it cut off?".to_owned() });
            }
            let start = self.at;
            while self.at < self.buffer.len() {
                let byte = self.buffer[self.at];
                self.at += 1;
                match byte {
                    b'\n' => self.line += 1,
                    _ if escaped => {}
                    b'"' => in_string = !in_string,
                    b'{' | b'[' if !in_string => depth += 1,
                    b'}' | b']' if !in_string => depth -= 1,
                    _ => {}
                }
                escaped = in_string && !escaped && byte == b'\\';
                if depth == 0 {
                    text.extend_from_slice(&self.buffer[start..self.at]);
                    return Ok(text);
                }
            }
            text.extend_from_slice(&self.buffer[start..self.at]);
            if text.len() > ELEMENT_BYTES_MAX {
                let why = format!("longer than {ELEMENT_BYTES_MAX} bytes: is a quote missing?");
                return Err(JobsError::Job { place, why });
            }
        }
    }

    /// Skips white space and gives the byte behind it, without taking it.
    fn skip_space(&mut self, before_reading: &mut dyn FnMut()) -> Result<Option<u8>, JobsError> {
        loop {
            while let Some(&byte) = self.buffer.get(self.at) {
                match byte {
                    b'\n' => self.line += 1,
                    b' ' | b'\t' | b'\r' => {}
                    _ => return Ok(Some(byte)),
                }
                self.at += 1;
            }
            if !self.refill(before_reading)? {
                return Ok(None);
            }
        }
    }

    /// Reads more once everything read was taken; false at the end of the input.
    fn refill(&mut self, before_reading: &mut dyn FnMut()) -> Result<bool, JobsError> {
        before_reading();
        self.buffer.resize(BUFFER_BYTES, 0);
        self.at = 0;
        let read = loop {
            match self.input.read(&mut self.buffer) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                result => break result,
            }
        };
        self.buffer.truncate(*read.as_ref().unwrap_or(&0));
        self.bytes_read += self.buffer.len() as u64;
        Ok(read? > 0)
    }

    fn wrong(&self, why: &str) -> JobsError {
        JobsError::Form { line: self.line, why: why.to_owned() }
    }
}

fn parse(text: &[u8], defaults: &Defaults) -> Result<Job, String> {
    let json: JsonJob<'_> = serde_json::from_slice(text).map_err(|e| {
        // serde_json counts lines from the job's own first one, which would mislead beside our own count.
        let told = e.to_string();
        told.rfind(" at line ").map_or(told.clone(), |end| told[..end].to_owned())
    })?;
    let body = match (json.body, json.body_base64) {
        (Some(body), None) => body_of(body)?,
        (None, Some(encoded)) => {
            STANDARD.decode(text_of("body_base64", encoded)?).map_err(|e| format!("body_base64 is not base64: {e}"))?
        }
        (None, None) => return Err("it has no body (`body`, or `body_base64` for bytes that are no text)".to_owned()),
        (Some(_), Some(_)) => return Err("it has both `body` and `body_base64`".to_owned()),
    };
    if body.len() > BODY_BYTES_MAX_LIMIT as usize {
        return Err(format!(
            "its body of {} bytes is larger than any server takes ({BODY_BYTES_MAX_LIMIT})",
            body.len()
        ));
    }
    let tube = json.tube.map_or_else(|| Ok(defaults.tube.clone()), |tube| text_of("tube", tube))?;
    check_tube(&tube)?;
    let number = |name, given: Option<&RawValue>, default| given.map_or(Ok(default), |given| number_of(name, given));
    Ok(Job {
        tube,
        priority: number("priority", json.priority, defaults.priority)?,
        delay_s: number("delay", json.delay, defaults.delay_s)?,
        ttr_s: number("ttr", json.ttr, defaults.ttr_s)?,
        body,
    })
}

fn text_of(name: &str, given: &RawValue) -> Result<String, String> {
    serde_json::from_str(given.get()).map_err(|_| format!("\"{name}\" must be a string"))
}

fn number_of(name: &str, given: &RawValue) -> Result<u32, String> {
    serde_json::from_str(given.get()).map_err(|_| format!("\"{name}\" must be a whole number from 0 to {}", u32::MAX))
}

/// A text as it is; an object or an array as JSON without white space, its keys in their order and its numbers as they
/// are written.
fn body_of(given: &RawValue) -> Result<Vec<u8>, String> {
    match given.get().as_bytes().first() {
        Some(b'{' | b'[') => Ok(compact(given.get())),
        _ => serde_json::from_str(given.get())
            .map(String::into_bytes)
            .map_err(|_| "\"body\" must be a string, an object or an array".to_owned()),
    }
}

/// Valid JSON, less the white space between its parts.
fn compact(json: &str) -> Vec<u8> {
    let (mut in_string, mut escaped) = (false, false);
    let keep = |byte: &u8| {
        let keeps = in_string || !matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
        in_string ^= *byte == b'"' && !escaped;
        escaped = in_string && !escaped && *byte == b'\\';
        keeps
    };
    json.bytes().filter(keep).collect()
}

/// # Errors
/// What is wrong with the name of a tube.
pub fn check_tube(name: &str) -> Result<(), String> {
    if !tube_name_is_legal(name.as_bytes()) {
        return Err(format!(
            "`{name}` is no name of a tube: 1 to {TUBE_NAME_BYTES_MAX} of A-Z a-z 0-9 - + / ; . $ _ ( ), not beginning with -"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn defaults() -> Defaults {
        Defaults { tube: "default".to_owned(), priority: 1024, delay_s: 0, ttr_s: 60 }
    }

    /// Hands out its bytes a few at a time, so that every split is met.
    struct Trickle<'a>(&'a [u8], usize);

    impl Read for Trickle<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let take = self.1.min(self.0.len()).min(buf.len());
            buf[..take].copy_from_slice(&self.0[..take]);
            self.0 = &self.0[take..];
            Ok(take)
        }
    }

    struct Broken;

    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::ConnectionReset.into())
        }
    }

    fn all(text: &str, at_a_time: usize) -> Result<Vec<(Place, Job)>, String> {
        let mut jobs = Jobs::new(Trickle(text.as_bytes(), at_a_time), defaults());
        let mut found = Vec::new();
        while let Some(job) = jobs.next(&mut || ()).map_err(|e| e.to_string())? {
            found.push(job);
        }
        assert_eq!(jobs.bytes_consumed(), text.len() as u64);
        Ok(found)
    }

    fn error(text: &str) -> String {
        let told = all(text, usize::MAX).expect_err("is refused");
        assert_eq!(all(text, 1).expect_err("is refused"), told, "the same, however it is split");
        told
    }

    #[test]
    fn an_array_and_lines_give_the_same_jobs_however_the_input_is_split() {
        let lines =
            "{\"tube\":\"a\",\"body\":\"x\\\"}{\\\\\",\"priority\":1,\"delay\":2,\"ttr\":3}\n\n  {\"body\":\"\"}\n";
        let array =
            "[\n{\"tube\":\"a\",\"body\":\"x\\\"}{\\\\\",\"priority\":1,\"delay\":2,\"ttr\":3} ,\n{\"body\":\"\"}\n]\n";
        let expected = [
            Job { tube: "a".to_owned(), priority: 1, delay_s: 2, ttr_s: 3, body: b"x\"}{\\".to_vec() },
            Job { tube: "default".to_owned(), priority: 1024, delay_s: 0, ttr_s: 60, body: Vec::new() },
        ];
        for at_a_time in [1, 2, 7, usize::MAX] {
            for (text, places) in [(lines, [(1, 1), (2, 3)]), (array, [(1, 2), (2, 3)])] {
                let found = all(text, at_a_time).expect("reads");
                assert_eq!(found.iter().map(|(place, _)| (place.number, place.line)).collect::<Vec<_>>(), places);
                assert!(found.iter().map(|(_, job)| job).eq(&expected), "{found:?}");
            }
        }
    }

    #[test]
    fn an_empty_input_and_an_empty_array_hold_no_jobs() {
        for text in ["", " \n", "[]", " [ ] \n", "\u{feff}[]"] {
            assert_eq!(all(text, 1), Ok(Vec::new()), "{text:?}");
        }
    }

    #[test]
    fn whatever_is_missing_of_the_next_job_is_asked_for_after_a_warning() {
        // What is in the first piece behind the whole job, and on which line the second one is looked for.
        for (behind, rest, line) in
            [("", "{\"body\":\"b\"}", 1), ("\n", "{\"body\":\"b\"}", 2), ("\n{\"bo", "dy\":\"b\"}", 2)]
        {
            let first = format!("{{\"body\":\"a\"}}{behind}");
            let mut jobs = Jobs::new(first.as_bytes().chain(rest.as_bytes()), defaults());
            let mut warnings = 0;
            jobs.next(&mut || warnings += 1).expect("reads").expect("is there");
            assert_eq!(warnings, 1);
            jobs.next(&mut || warnings += 1).expect("reads").expect("is there");
            assert_eq!(warnings, 2, "{behind:?}");

            let mut jobs = Jobs::new(first.as_bytes().chain(Broken), defaults());
            jobs.next(&mut || ()).expect("reads").expect("is there");
            assert!(matches!(jobs.next(&mut || ()), Err(JobsError::Read(_))));
            assert_eq!(jobs.upcoming(), Place { number: 2, line }, "{behind:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_come_as_base64() {
        let found = all("{\"body_base64\":\"AP8=\"}", 3).expect("reads");
        assert_eq!(found[0].1.body, [0, 255]);
    }

    #[test]
    fn an_object_or_an_array_is_a_body_as_compact_json() {
        for (body, stored) in [
            ("{ \"z\": 1,\n \"a\" : [ 1.0, 1e400, {} ] }", "{\"z\":1,\"a\":[1.0,1e400,{}]}"),
            ("{\"a b\": \"c \\\" d\\\\\", \"e\": \" \"}", "{\"a b\":\"c \\\" d\\\\\",\"e\":\" \"}"),
            ("[ ]", "[]"),
            ("{\"n\": 123456789012345678901234567890}", "{\"n\":123456789012345678901234567890}"),
            ("{\"\u{e9}\": \"\u{1f600} \\u00e9\"}", "{\"\u{e9}\":\"\u{1f600} \\u00e9\"}"),
        ] {
            let found = all(&format!("{{\"body\": {body}, \"ttr\": 5}}"), 3).expect("reads");
            assert_eq!(String::from_utf8_lossy(&found[0].1.body), stored);
        }
        assert_eq!(all("{\"body\":null,\"body_base64\":\"QQ==\",\"ttr\":null}", 3).expect("reads")[0].1.body, b"A");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let told = error("{\"body\":\"a\"}\n{\"body\":\"b\",\"pri\":3}\n");
        assert!(told.starts_with("line 2: job 2: unknown field `pri`"), "{told}");
        for body in ["7", "true"] {
            let told = error(&format!("{{\"body\":{body}}}"));
            assert_eq!(told, "line 1: job 1: \"body\" must be a string, an object or an array");
        }
        for name in ["priority", "delay", "ttr"] {
            for value in ["\"high\"", "-1", "1.5", "4294967296", "[1]", "1e3"] {
                let told = error(&format!("{{\"body\":\"\",\"{name}\":{value}}}"));
                assert_eq!(told, format!("line 1: job 1: \"{name}\" must be a whole number from 0 to 4294967295"));
            }
        }
        assert_eq!(error("{\"body\":\"\",\"tube\":5}"), "line 1: job 1: \"tube\" must be a string");
        assert_eq!(error("{\"body_base64\":{}}"), "line 1: job 1: \"body_base64\" must be a string");
        assert!(error("{\"body\":\"\",\"body\":\"\"}").contains("duplicate field `body`"));
        assert!(error("{\"tube\":\"a\"}").contains("it has no body"));
        assert!(error("{\"body\":\"\",\"body_base64\":\"\"}").contains("both"));
        assert!(error("{\"body_base64\":\"*\"}").contains("not base64"));
        assert!(error("{\"body\":\"\",\"tube\":\"a b\"}").contains("`a b` is no name of a tube"));
        assert!(error("{\"body\":\"\",\"tube\":\"-a\"}").contains("is no name of a tube"));
        assert!(error("{\"body\":\"a\"").contains("job 1: the input ends within it"));
        assert!(error("[{\"body\":\"a\"}\n").starts_with("line 2: the input ends within the array"));
        assert!(error("[{\"body\":\"a\"},\n]").starts_with("line 2: a job, an object in braces, must follow"));
        assert!(error("[{\"body\":\"a\"} {\"body\":\"b\"}]").contains("a comma or the end"));
        assert!(error("[{\"body\":\"a\"}] x").contains("nothing may follow"));
        assert!(error("\n\n\"words\"").starts_with("line 3: a job is an object in braces; this begins with `\"`"));
        assert!(error("[1]").contains("this begins with `1`"));
        assert!(error("{\"body\":\"a\"}]").contains("this begins with `]`"));
    }

    #[test]
    fn mismatched_brackets_are_an_error_of_the_job_not_a_panic() {
        assert!(error("{]").contains("job 1: "));
        assert!(error("{\"body\":[}").contains("job 1: "));
    }
}
