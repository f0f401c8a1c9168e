//! Every call that the crate beanstalkc offers, against the server at HOST:PORT. Its own tests ask no server.

use std::time::Duration;

use beanstalkc::Beanstalkc;

fn connect(address: &str) -> Beanstalkc {
    let (host, port) = address.rsplit_once(':').expect("HOST:PORT");
    let client = Beanstalkc::new().host(host).port(port.parse().expect("a port"));
    client.connection_timeout(Some(Duration::from_secs(5))).connect().expect("a server")
}

fn main() {
    let address = std::env::args().nth(1).expect("HOST:PORT");
    let tube = format!("beanstalkc-{}", std::process::id());
    let hour = Duration::from_secs(3600);
    let now = Duration::ZERO;
    let mut c = connect(&address);

    assert_eq!(c.use_tube(&tube).unwrap(), tube);
    assert_eq!(c.using().unwrap(), tube);
    assert_eq!(c.watch(&tube).unwrap(), 2);
    assert_eq!(c.ignore("default").unwrap(), 1);
    assert!(c.ignore(&tube).is_err());
    assert_eq!(c.watching().unwrap(), [tube.clone()]);
    assert!(c.tubes().unwrap().contains(&tube));

    let first = c.put(b"first", 1, now, hour).unwrap();
    let second = c.put_default(b"second\r\n\0").unwrap();
    assert_eq!(c.peek(first).unwrap().body(), b"first");
    assert_eq!(c.peek_ready().unwrap().id(), first);
    let mut job = c.reserve().unwrap();
    assert_eq!((job.id(), job.body()), (first, &b"first"[..]));
    job.touch().unwrap();
    let stats = job.stats().unwrap();
    assert_eq!((stats["state"].as_str(), stats["pri"].as_str()), ("reserved", "1"));
    job.release(1, hour).unwrap();
    assert_eq!(c.peek_delayed().unwrap().id(), first);
    assert_eq!(c.kick(10).unwrap(), 1);
    let mut job = c.reserve_with_timeout(Duration::from_secs(5)).unwrap();
    assert_eq!(job.id(), first);
    job.bury_default().unwrap();
    assert_eq!(c.peek_buried().unwrap().id(), first);
    c.kick_job(first).unwrap();
    assert!(c.kick_job(first).is_err());

    c.pause_tube(&tube, hour).unwrap();
    assert!(c.reserve_with_timeout(now).is_err());
    c.pause_tube(&tube, now).unwrap();
    let mut job = c.reserve_with_timeout(Duration::from_secs(5)).unwrap();
    assert_eq!(job.id(), first);
    job.release_default().unwrap();
    c.delete(first).unwrap();
    let mut job = c.reserve().unwrap();
    assert_eq!((job.id(), job.body()), (second, &b"second\r\n\0"[..]));
    job.delete().unwrap();
    assert!(c.delete(second).is_err());
    assert!(c.stats_job(second).is_err());
    assert_eq!(c.stats_tube(&tube).unwrap()["cmd-delete"], "2");
    assert!(c.stats().unwrap().contains_key("current-jobs-ready"));

    let mut c = c.reconnect().unwrap();
    assert_eq!(c.using().unwrap(), "default");
    println!("ok  every call of beanstalkc");
}
