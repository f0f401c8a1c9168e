//! Whom to ask, and asking all of them at one time.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::StatusArgs;
use super::answers::Answer;
use crate::cli::place::Place;
use crate::config::{Address, Config, Draft};
use crate::status::{MemberStatus, StatusReport, member_places};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Beyond what each request may take, before one that does not end is given up.
const SLACK: Duration = Duration::from_millis(500);

/// One member, or an address whose member is to be learnt.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Asked {
    node: Option<u8>,
    /// The first that can be reached is asked; none: nobody knows where the member is.
    places: Vec<Place>,
}

/// Who is asked.
#[derive(Debug)]
pub struct Whom {
    /// The cluster that is meant, where the configuration says it.
    cluster: Option<String>,
    asked: Vec<Asked>,
}

/// The status of the node whose admin port is at `address`.
///
/// # Errors
/// Why there is none.
pub fn fetch(address: &str) -> Result<StatusReport, String> {
    Place::Port(address.to_owned()).client(ANSWER_TIMEOUT).status().map_err(|error| error.to_string())
}

impl Whom {
    /// # Errors
    /// Nobody was named, or the configuration cannot be used.
    pub fn of(args: &StatusArgs) -> Result<Whom, String> {
        if let Some(file) = &args.config {
            let config = Draft::read(file).and_then(|draft| draft.validate()).map_err(|error| error.to_string())?;
            return Ok(Whom { cluster: Some(config.cluster.clone()), asked: members_of(&config) });
        }
        let places: Vec<Place> = match &args.data {
            Some(data) => vec![Place::Directory(data.clone())],
            None => args.admin.iter().map(Address::to_string).map(Place::Port).collect(),
        };
        if places.is_empty() {
            return Err(
                "say whom to ask: --admin ADDR, --config FILE of a member, or --data DIR of a node on this host"
                    .to_owned(),
            );
        }
        let asked = places.into_iter().map(|place| Asked { node: None, places: vec![place] }).collect();
        Ok(Whom { cluster: None, asked })
    }

    pub fn cluster(&self) -> Option<&str> {
        self.cluster.as_deref()
    }

    /// Asks all at one time, so that their answers can be compared. Members that an answer names
    /// and nobody asked are asked from then on, and all others again with them.
    pub fn ask(&mut self) -> Vec<Answer> {
        let answers = ask_all(&self.asked);
        let others = unasked(&answers);
        if others.is_empty() {
            return answers;
        }
        self.asked.extend(others);
        ask_all(&self.asked)
    }
}

/// All members, of which this host's own is asked by its socket first: it answers without an admin
/// port.
fn members_of(config: &Config) -> Vec<Asked> {
    let asked = |member: MemberStatus| {
        let own = (member.node == config.node.0).then(|| Place::Directory(config.data.clone()));
        let places = own.into_iter().chain(member.admin.map(Place::Port)).collect();
        Asked { node: Some(member.node), places }
    };
    member_places(config).into_iter().map(asked).collect()
}

/// Members that somebody named and nobody asked yet.
fn unasked(answers: &[Answer]) -> Vec<Asked> {
    let known: Vec<u8> = answers.iter().filter_map(|answer| answer.node).collect();
    let silent: Vec<&str> = answers.iter().filter(|a| a.report.is_none()).filter_map(|a| a.admin.as_deref()).collect();
    let named = answers.iter().find_map(|answer| answer.report.as_ref()).map_or(&[][..], |report| &report.members);
    let wanted = |member: &&MemberStatus| {
        let asked_in_vain = member.admin.as_deref().is_some_and(|admin| silent.contains(&admin));
        !known.contains(&member.node) && !asked_in_vain
    };
    let asked = |member: &MemberStatus| Asked {
        node: Some(member.node),
        places: member.admin.clone().map(Place::Port).into_iter().collect(),
    };
    named.iter().filter(wanted).map(asked).collect()
}

fn ask_all(whom: &[Asked]) -> Vec<Answer> {
    let deadline = Instant::now() + ANSWER_TIMEOUT + SLACK;
    let (sender, answered) = mpsc::channel();
    for (nth, asked) in whom.iter().enumerate() {
        let (asked, sender) = (asked.clone(), sender.clone());
        std::thread::spawn(move || {
            // Nobody waits any more for what comes too late.
            let _ = sender.send((nth, ask(&asked)));
        });
    }
    drop(sender);
    let mut answers: Vec<Option<Answer>> = whom.iter().map(|_| None).collect();
    while let Ok((nth, answer)) = answered.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        answers[nth] = Some(answer);
    }
    let late = |asked: &Asked| Answer::without(asked.node, asked.places.first(), "no answer in time".to_owned());
    answers.into_iter().zip(whom).map(|(answer, asked)| answer.unwrap_or_else(|| late(asked))).collect()
}

fn ask(asked: &Asked) -> Answer {
    let mut last = Answer::without(asked.node, None, "its admin address is not known".to_owned());
    for place in &asked.places {
        match place.client(ANSWER_TIMEOUT).status() {
            Ok(report) => return Answer::with(asked.node, place, report),
            Err(why) => last = Answer::without(asked.node, Some(place), why.to_string()),
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::cli::status::answers::tests::answer;
    use crate::status::RoleName;

    fn silent(node: Option<u8>, admin: &str) -> Answer {
        Answer::without(node, Some(&Place::Port(admin.to_owned())), "refused".to_owned())
    }

    #[test]
    fn members_are_asked_once_and_only_those_that_were_not() {
        let answers = [answer(1, RoleName::Leader, 1), silent(None, "10.0.0.3:9301")];
        let second = Asked { node: Some(2), places: vec![Place::Port("10.0.0.2:9301".to_owned())] };
        assert_eq!(unasked(&answers), [second]);
        assert_eq!(unasked(&[silent(None, "x:1")]), []);
    }

    #[test]
    fn with_a_configuration_all_members_are_asked_and_the_own_one_by_its_socket_first() {
        let yaml = "{cluster: c, node: 1, data: /d, clients: 'a:1', members: {1: 'a:2', 2: 'b:2'}";
        let asked = |more: &str| {
            let config = Draft::from_yaml(&format!("{yaml}{more}}}"), Path::new("c")).expect("parses");
            members_of(&config.validate().expect("valid"))
        };
        let socket = Place::Directory("/d".into());
        let port = |address: &str| Place::Port(address.to_owned());
        assert_eq!(
            asked(", admin: 'a:3'"),
            [
                Asked { node: Some(1), places: vec![socket.clone(), port("a:3")] },
                Asked { node: Some(2), places: vec![port("b:3")] },
            ]
        );
        let without = [Asked { node: Some(1), places: vec![socket] }, Asked { node: Some(2), places: Vec::new() }];
        assert_eq!(asked(""), without);
    }
}
