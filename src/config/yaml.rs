//! A configuration file read from the parser's events. Scalars stay as they are written: what `0123`
//! or `yes` means is for the key to say that has it, and not for YAML's rules.

use std::collections::BTreeMap;

use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle};

use super::draft::Value;

/// One key of the file with its value, and the lines, from 1, on which they begin.
#[derive(Debug)]
pub(super) struct Entry {
    pub name: String,
    pub name_line: u64,
    pub value: Value,
    pub value_line: u64,
}

/// Why a file is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum YamlError {
    /// It is not YAML, or not a map of keys to values.
    Form(String),
    /// A key, or an id among the values of one, stands there a second time, on this line.
    Twice { name: String, line: u64 },
}

/// Reads all entries of a file, in its order.
pub(super) fn read(text: &str) -> Result<Vec<Entry>, YamlError> {
    let mut reader = Reader { parser: Parser::new_from_str(text) };
    let mut entries: Vec<Entry> = Vec::new();
    match reader.next()? {
        (Node::Map, _) => {}
        (Node::End, _) => return Ok(entries),
        // A document with nothing in it.
        (Node::Scalar { text, is_plain: true }, _) if is_nothing(&text) => return reader.end(entries),
        (_, line) => return Err(form(line, "a configuration is a map: `key: value` on each line")),
    }
    loop {
        let (name, name_line) = match reader.next()? {
            (Node::EndOfMap, _) => break,
            (Node::Scalar { text, .. }, line) => (text, line),
            (_, line) => return Err(form(line, "the name of a key is expected")),
        };
        if entries.iter().any(|entry| entry.name == name) {
            return Err(YamlError::Twice { name, line: name_line });
        }
        let (value, value_line) = reader.value(&name)?;
        entries.push(Entry { name, name_line, value, value_line });
    }
    reader.end(entries)
}

fn form(line: u64, why: &str) -> YamlError {
    YamlError::Form(format!("line {line}: {why}"))
}

/// An event, as far as it matters here.
enum Node {
    Scalar { text: String, is_plain: bool },
    List,
    EndOfList,
    Map,
    EndOfMap,
    End,
}

struct Reader<'a> {
    parser: Parser<'a, serde_saphyr::granit_parser::StrInput<'a>>,
}

impl Reader<'_> {
    fn end(mut self, entries: Vec<Entry>) -> Result<Vec<Entry>, YamlError> {
        match self.next()? {
            (Node::End, _) => Ok(entries),
            (_, line) => Err(form(line, "a configuration is one document")),
        }
    }

    /// The next event, and its line.
    fn next(&mut self) -> Result<(Node, u64), YamlError> {
        loop {
            let Some(event) = self.parser.next() else { return Ok((Node::End, 0)) };
            let (event, span) = event.map_err(|error| YamlError::Form(error.to_string()))?;
            let line = span.start.line() as u64;
            let node = match event {
                Event::Scalar(text, style, ..) => {
                    Node::Scalar { text: text.into_owned(), is_plain: style == ScalarStyle::Plain }
                }
                Event::SequenceStart(..) => Node::List,
                Event::SequenceEnd => Node::EndOfList,
                Event::MappingStart(..) => Node::Map,
                Event::MappingEnd => Node::EndOfMap,
                Event::StreamEnd => Node::End,
                Event::Alias(..) | Event::UnresolvedAlias(..) => {
                    return Err(form(line, "aliases are not taken; write the value out (or in quotes)"));
                }
                _ => continue,
            };
            return Ok((node, line));
        }
    }

    /// The value of a key: a scalar, a list of them, or a map of them.
    fn value(&mut self, key: &str) -> Result<(Value, u64), YamlError> {
        let (node, line) = self.next()?;
        let value = match node {
            Node::Scalar { text, is_plain } if is_plain && is_nothing(&text) => Value::Absent,
            Node::Scalar { text, .. } => Value::Text(text),
            Node::List => {
                let mut list = Vec::new();
                while let Some((item, _)) = self.scalar(key)? {
                    list.push(item);
                }
                Value::List(list)
            }
            Node::Map => {
                let mut map = BTreeMap::new();
                while let Some((name, line)) = self.scalar(key)? {
                    let Some((value, _)) = self.scalar(key)? else { break };
                    if map.insert(name.clone(), value).is_some() {
                        return Err(YamlError::Twice { name: format!("{name} in {key}"), line });
                    }
                }
                Value::Map(map)
            }
            Node::EndOfList | Node::EndOfMap | Node::End => return Err(form(line, &format!("{key} has no value"))),
        };
        Ok((value, line))
    }

    /// The next scalar of a list or map, or none at its end.
    fn scalar(&mut self, key: &str) -> Result<Option<(String, u64)>, YamlError> {
        match self.next()? {
            (Node::Scalar { text, .. }, line) => Ok(Some((text, line))),
            (Node::EndOfList | Node::EndOfMap, _) => Ok(None),
            (_, line) => Err(form(line, &format!("{key} takes single values, and no list or map within"))),
        }
    }
}

/// What YAML writes where there is no value.
fn is_nothing(plain: &str) -> bool {
    matches!(plain, "" | "~" | "null" | "Null" | "NULL")
}
