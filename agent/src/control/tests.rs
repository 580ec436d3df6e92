//! The sockets with a host that only notes what it is asked.

use super::client::{Client, ClientError, Sockets};
use super::*;
use crate::cli::render::fixture;
use crate::config::PathSettings;
use crate::events::{Event, Severity};
use pgaa_core::time::Wall;
use pgaa_core::verify::Mending;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::sync::Mutex;
use tokio::task::JoinHandle;

struct Host {
    status: watch::Sender<Arc<StatusReport>>,
    events: Events,
    asked: Mutex<Vec<Act>>,
}

#[tonic::async_trait]
impl ControlHost for Host {
    fn status(&self) -> watch::Receiver<Arc<StatusReport>> {
        self.status.subscribe()
    }

    fn events(&self) -> &Events {
        &self.events
    }

    async fn act(&self, act: Act) -> ActOutcome {
        self.asked.lock().unwrap().push(act);
        ActOutcome::done("noted").with_json(serde_json::json!({"noted": true}))
    }

    async fn conflicts(&self, query: Query) -> anyhow::Result<conflicts::Report> {
        let pair = query.pair.unwrap_or_default();
        anyhow::bail!("{:?} {pair:?} {}", query.table, query.limit)
    }

    fn verify(&self, wish: Wish) -> anyhow::Result<mpsc::Receiver<News>> {
        let Wish {
            tables,
            eager,
            mending,
            resume,
        } = wish;
        anyhow::ensure!(!resume, "no comparison was broken off");
        let (news, reader) = mpsc::channel(2);
        let progress = News::Progress {
            table: tables.join(" "),
            number: usize::from(eager),
            tables: tables.len(),
            rows: 5,
            suspects: usize::from(mending == Mending::Done),
        };
        news.try_send(progress).unwrap();
        Ok(reader)
    }
}

struct Agent {
    _directory: tempfile::TempDir,
    paths: PathSettings,
    host: Arc<Host>,
    shutdown: watch::Sender<bool>,
    served: JoinHandle<anyhow::Result<()>>,
}

async fn agent() -> Agent {
    let directory = tempfile::tempdir().unwrap();
    let paths = PathSettings {
        state_dir: directory.path().to_owned(),
        run_dir: directory.path().join("run"),
    };
    start(directory, paths).await
}

async fn start(directory: tempfile::TempDir, paths: PathSettings) -> Agent {
    let host = Arc::new(Host {
        status: watch::channel(Arc::new(fixture::mesh())).0,
        events: Events::open(directory.path()),
        asked: Mutex::default(),
    });
    let (shutdown, down) = watch::channel(false);
    let (served_paths, served_host) = (paths.clone(), host.clone());
    let served = tokio::spawn(async move { serve(&served_paths, served_host, down).await });
    while !paths.read_socket().exists() && !served.is_finished() {
        tokio::task::yield_now().await;
    }
    Agent {
        _directory: directory,
        paths,
        host,
        shutdown,
        served,
    }
}

async fn connect(path: std::path::PathBuf) -> Client {
    Client::connect(&Sockets::One(path)).await.unwrap()
}

fn event(number: i64) -> Event {
    let text = format!("event {number}");
    Event {
        at: Wall(number),
        severity: Severity::Info,
        kind: "test".to_owned(),
        text,
    }
}

#[tokio::test]
async fn every_act_arrives_as_it_was_sent() {
    let agent = agent().await;
    let mut client = connect(agent.paths.agent_socket()).await;
    let node = fixture::node(2);
    let acts = vec![
        Act::TokenCreate { ttl: None },
        Act::TokenCreate {
            ttl: Some(Duration::from_secs(60)),
        },
        Act::TokenList,
        Act::TokenRevoke { id: "abc".into() },
        Act::SequencesList,
        Act::SequencesFix {
            sequences: vec!["public.s".into()],
            dry_run: true,
        },
        Act::Leave { force: true },
        Act::Forget {
            node: "node-3".into(),
            force: false,
        },
        Act::RestartPostgres,
        Act::FoundOnlyMe {
            promise_holder: None,
        },
        Act::FoundOnlyMe {
            promise_holder: Some(node),
        },
        Act::PromiseShow,
        Act::SkipTransaction {
            node: "db2".to_owned(),
            transaction: "0/1A2B3C8".to_owned(),
        },
        Act::PromiseRelease { candidate: node },
        Act::BackupOwner { move_to: None },
        Act::BackupOwner {
            move_to: Some("b".to_owned()),
        },
        Act::BackupList,
        Act::BackupRun {
            kind: pgaa_core::backup::BackupKind::Differential,
        },
        Act::Rejoin { node: "c".into() },
    ];
    for act in &acts {
        let outcome = client.act(act.clone()).await.unwrap();
        assert_eq!(outcome.json["noted"], true);
    }
    assert_eq!(*agent.host.asked.lock().unwrap(), acts);
}

#[tokio::test]
async fn conflicts_are_told_to_readers() {
    let agent = agent().await;
    let mut client = connect(agent.paths.read_socket()).await;
    let query = Query {
        since: Wall(5),
        table: Some("t".to_owned()),
        pair: Some(("a".to_owned(), "b".to_owned())),
        limit: 7,
    };
    // The host of these tests knows of none, and says what it was asked.
    let refused = client.conflicts(query).await.unwrap_err().to_string();
    assert!(
        refused.contains("Some(\"t\") (\"a\", \"b\") 7"),
        "{refused}"
    );
}

#[tokio::test]
async fn the_reading_socket_tells_and_does_nothing() {
    let agent = agent().await;
    let mut client = connect(agent.paths.read_socket()).await;
    let report: StatusReport = serde_json::from_str(&client.status().await.unwrap()).unwrap();
    assert_eq!(report, fixture::mesh());
    let error = client.act(Act::Leave { force: true }).await.unwrap_err();
    assert!(matches!(error, ClientError::Permission { .. }), "{error:?}");
    assert!(error.to_string().contains("agent.sock"), "{error}");
    assert_eq!(*agent.host.asked.lock().unwrap(), []);
}

#[tokio::test]
async fn modes_keep_others_out() {
    let agent = agent().await;
    let mode = |path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(agent.paths.agent_socket()), 0o600);
    // Without the group only the owner may read; never everybody.
    assert!([0o600, 0o660].contains(&mode(agent.paths.read_socket())));
}

#[tokio::test]
async fn a_watcher_gets_what_is_and_what_comes_and_is_let_go_at_the_end() {
    let agent = agent().await;
    let mut client = connect(agent.paths.read_socket()).await;
    let mut documents = client.watch_status().await.unwrap();
    let first = client.next(&mut documents).await.unwrap().unwrap();
    assert!(first.contains("\"health\":\"critical\""), "{first}");
    agent.host.status.send_replace(Arc::new(fixture::forming()));
    let second = client.next(&mut documents).await.unwrap().unwrap();
    assert!(second.contains("\"health\":\"degraded\""), "{second}");
    agent.shutdown.send_replace(true);
    assert_eq!(client.next(&mut documents).await.unwrap(), None);
    agent.served.await.unwrap().unwrap();
    assert!(!agent.paths.agent_socket().exists() && !agent.paths.read_socket().exists());
}

#[tokio::test]
async fn events_of_the_past_and_to_come_arrive_once_each() {
    let agent = agent().await;
    for number in 1..=3 {
        agent.host.events.record(event(number));
    }
    let mut client = connect(agent.paths.read_socket()).await;
    let mut documents = client.events(2, true).await.unwrap();
    agent.host.events.record(event(4));
    for number in 2..=4 {
        let json = client.next(&mut documents).await.unwrap().unwrap();
        assert_eq!(client.read_event(&json).unwrap(), event(number));
    }
    let mut documents = client.events(3, false).await.unwrap();
    assert!(client.next(&mut documents).await.unwrap().is_some());
    assert!(client.next(&mut documents).await.unwrap().is_some());
    assert_eq!(client.next(&mut documents).await.unwrap(), None);
}

#[tokio::test]
async fn a_dead_agents_socket_is_replaced_and_a_live_ones_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let run_dir = directory.path().to_owned();
    let paths = PathSettings {
        state_dir: run_dir.clone(),
        run_dir,
    };
    drop(UnixListener::bind(paths.agent_socket()).unwrap());
    let agent = start(directory, paths.clone()).await;
    connect(paths.agent_socket()).await.status().await.unwrap();

    let (_, down) = watch::channel(false);
    let error = serve(&paths, agent.host.clone(), down).await.unwrap_err();
    assert!(
        error.to_string().contains("another agent answers"),
        "{error}"
    );
    connect(paths.agent_socket()).await.status().await.unwrap();
}

#[tokio::test]
async fn a_file_in_the_way_is_named_and_left() {
    let directory = tempfile::tempdir().unwrap();
    let run_dir = directory.path().to_owned();
    let paths = PathSettings {
        state_dir: run_dir.clone(),
        run_dir,
    };
    std::fs::write(paths.agent_socket(), "precious").unwrap();
    let agent = start(directory, paths.clone()).await;
    let error = agent.served.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("is no socket"), "{error}");
    assert_eq!(
        std::fs::read_to_string(paths.agent_socket()).unwrap(),
        "precious"
    );
}

#[tokio::test]
async fn silence_and_absence_are_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let absent = Sockets::Directory(directory.path().to_owned());
    let error = Client::connect(&absent).await.unwrap_err();
    assert!(matches!(error, ClientError::NotRunning { .. }), "{error:?}");

    let dead = directory.path().join("agent.sock");
    drop(UnixListener::bind(&dead).unwrap());
    let error = Client::connect(&absent).await.unwrap_err();
    assert!(matches!(error, ClientError::NotRunning { .. }), "{error:?}");
    assert!(
        error.to_string().ends_with("systemctl start pgaa-agent"),
        "{error}"
    );
}

#[tokio::test]
async fn an_agent_that_hangs_is_a_time_out() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.sock");
    // Accepts in the kernel's backlog, and never answers.
    let _listener = UnixListener::bind(&path).unwrap();
    let mut client = connect(path).await.with_patience(Duration::from_millis(20));
    let error = client.status().await.unwrap_err();
    assert!(matches!(error, ClientError::TimedOut { .. }), "{error:?}");
}

#[tokio::test]
async fn a_comparison_is_told_as_it_goes_and_only_to_those_who_may_act() {
    let agent = agent().await;
    let full = Sockets::One(agent.paths.agent_socket());
    let mut client = Client::connect(&full).await.unwrap();
    let wish = Wish {
        tables: vec!["a".to_owned(), "b".to_owned()],
        eager: true,
        mending: Mending::Done,
        resume: false,
    };
    let mut news = client.verify(wish.clone()).await.unwrap();
    let told = client.next(&mut news).await.unwrap().unwrap();
    let expected = News::Progress {
        table: "a b".to_owned(),
        number: 1,
        tables: 2,
        rows: 5,
        suspects: 1,
    };
    assert_eq!(serde_json::from_str::<News>(&told).unwrap(), expected);
    assert_eq!(client.next(&mut news).await.unwrap(), None, "the end");
    let go_on = Wish {
        resume: true,
        ..Wish::default()
    };
    let refused = client.verify(go_on).await;
    assert!(
        matches!(&refused, Err(ClientError::Answered { text }) if text.contains("broken off")),
        "it is told why"
    );
    let read = Sockets::One(agent.paths.read_socket());
    let mut reader = Client::connect(&read).await.unwrap();
    let refused = reader.verify(wish).await;
    assert!(matches!(refused, Err(ClientError::Permission { .. })));
}
