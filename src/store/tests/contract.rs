//! What any backend must do. Each test is a function over a constructor, and runs on all backends in the list at the end.

use std::sync::Arc;

use bytes::Bytes;

use super::{assert_quiet, shown, take, text, value};
use crate::{Entry, Error, Expect, ListOptions, NewValue, Options, Page, Revision, Store};

/// Opens an empty store of the backend, with the limits given.
type Open<'a> = &'a dyn Fn(Options) -> Store;

async fn put(store: &Store, key: &str, content: &str) -> Revision {
    store.put(key, Expect::Any, value(content)).await.unwrap().modified
}

async fn keys(store: &Store, prefix: &str, options: ListOptions) -> String {
    let page = store.list(prefix, options).await.unwrap();
    listed(&page)
}

fn listed(page: &Page) -> String {
    let entries = page.entries.iter().map(|entry| format!("{}={}", entry.key, text(entry)));
    format!("{} +{}", entries.collect::<Vec<_>>().join(" "), page.remaining)
}

async fn a_missing_key_is_not_there(open: Open<'_>) {
    let store = open(Options::default());
    let revision = store.revision();
    assert!(revision > 0);
    assert_eq!(store.get("/a/b").await.unwrap(), None);
    assert_eq!(keys(&store, "/", ListOptions::default()).await, " +0");
    assert_eq!(store.list("/a/", ListOptions::default()).await.unwrap().revision, revision);
}

async fn a_write_is_visible_when_answered(open: Open<'_>) {
    let store = open(Options::default());
    let before = store.revision();
    let first = store.put("/a/b", Expect::Any, value("one")).await.unwrap();
    assert!(first.modified > before);
    assert_eq!((first.created, &*first.key, text(&first)), (first.modified, "/a/b", "one"));
    assert_eq!(store.get("/a/b").await.unwrap().as_ref(), Some(&first));
    let second = store.put("/a/b", Expect::Any, value("two")).await.unwrap();
    assert!(second.modified > first.modified);
    assert_eq!((second.created, store.revision()), (first.created, second.modified));
    let (last, deleted) = store.delete("/a/b", Expect::Any).await.unwrap();
    assert_eq!(last, second);
    assert!(deleted > second.modified);
    assert_eq!(store.get("/a/b").await.unwrap(), None);
    let again = store.put("/a/b", Expect::Any, value("three")).await.unwrap();
    assert_eq!(again.created, again.modified);
}

async fn expectations_decide(open: Open<'_>) {
    let store = open(Options::default());
    let conflict = |result: Result<Entry, Error>| match result {
        Err(Error::Conflict { current }) => current.map(|entry| text(&entry).to_owned()),
        other => panic!("{other:?}"),
    };
    let gone = |result: Result<(Entry, Revision), Error>| conflict(result.map(|(entry, _)| entry));
    for expect in [Expect::Any, Expect::Absent, Expect::Modified(store.revision())] {
        assert_eq!(gone(store.delete("/k", expect).await), None);
    }
    assert_eq!(conflict(store.put("/k", Expect::Modified(1), value("x")).await), None);
    let first = store.put("/k", Expect::Absent, value("1")).await.unwrap();
    let now = Some("1".to_owned());
    assert_eq!(conflict(store.put("/k", Expect::Absent, value("x")).await), now);
    assert_eq!(
        conflict(store.put("/k", Expect::Modified(first.modified + 1), value("x")).await),
        now
    );
    assert_eq!(gone(store.delete("/k", Expect::Absent).await), now);
    assert_eq!(gone(store.delete("/k", Expect::Modified(first.modified - 1)).await), now);
    assert_eq!(store.revision(), first.modified, "a refused write takes no revision");
    let second = store.put("/k", Expect::Modified(first.modified), value("2")).await.unwrap();
    assert_eq!(second.created, first.created);
    store.delete("/k", Expect::Modified(second.modified)).await.unwrap();
    store.put("/k", Expect::Any, value("3")).await.unwrap();
}

async fn a_value_can_carry_its_revision(open: Open<'_>) {
    let store = open(Options::default());
    for (offset, shape) in [(0, "{}ab"), (1, "a{}b"), (2, "ab{}")] {
        let bytes = Bytes::from_static(b"ab");
        let entry =
            store.put("/k", Expect::Any, NewValue { bytes, stamp: Some(offset) }).await.unwrap();
        assert_eq!(text(&entry), shape.replace("{}", &entry.modified.to_string()));
        assert_eq!(store.get("/k").await.unwrap(), Some(entry));
    }
    let bytes = Bytes::from_static(b"ab");
    let error = store.put("/k", Expect::Any, NewValue { bytes, stamp: Some(3) }).await.unwrap_err();
    assert_eq!(error.to_string(), "stamp offset 3 is outside of the value of /k (2 bytes)");
}

async fn lists_are_ordered_ranges(open: Open<'_>) {
    let store = open(Options::default());
    for key in ["/a/c/x", "/a/b/y", "/a/b0", "/a/b/x", "/a/b", "/a/b-/z", "/b/b/x"] {
        put(&store, key, "v").await;
    }
    let all = ListOptions::default;
    assert_eq!(keys(&store, "/a/b/", all()).await, "/a/b/x=v /a/b/y=v +0");
    assert_eq!(keys(&store, "/a/b", all()).await, "/a/b=v +0");
    assert_eq!(keys(&store, "/b/", all()).await, "/b/b/x=v +0");
    assert_eq!(keys(&store, "/c/", all()).await, " +0");
    assert_eq!(store.list("/", all()).await.unwrap().entries.len(), 7);
}

async fn lists_come_in_pages(open: Open<'_>) {
    let store = open(Options::default());
    for number in 0..5 {
        put(&store, &format!("/p/{number}"), "v").await;
    }
    put(&store, "/q/0", "v").await;
    let page = |after: Option<&str>, limit| ListOptions {
        after: after.map(str::to_owned),
        limit,
        at: None,
    };
    assert_eq!(keys(&store, "/p/", page(None, 2)).await, "/p/0=v /p/1=v +3");
    assert_eq!(keys(&store, "/p/", page(Some("/p/1"), 2)).await, "/p/2=v /p/3=v +1");
    assert_eq!(keys(&store, "/p/", page(Some("/p/3"), 2)).await, "/p/4=v +0");
    assert_eq!(keys(&store, "/p/", page(Some("/p/3"), 0)).await, "/p/4=v +0");
    assert_eq!(keys(&store, "/p/", page(Some("/p/9"), 2)).await, " +0");
    assert_eq!(keys(&store, "/p/", page(Some("/z"), 2)).await, " +0");
    assert_eq!(keys(&store, "/p/", page(Some("/a"), 1)).await, "/p/0=v +4");
    assert_eq!(keys(&store, "/p/3", page(Some("/p/3"), 1)).await, " +0");
}

async fn lists_can_look_back(open: Open<'_>) {
    let store = open(Options { history_events_max: 6, ..Options::default() });
    for key in ["/p/a", "/p/b", "/p/c", "/p/d"] {
        put(&store, key, "old").await;
    }
    let then = store.revision();
    put(&store, "/p/aa", "new").await;
    put(&store, "/p/b", "new").await;
    store.delete("/p/c", Expect::Any).await.unwrap();
    put(&store, "/p/b", "newer").await;
    put(&store, "/p/e", "new").await;
    let at = |after: Option<&str>, limit| ListOptions {
        after: after.map(str::to_owned),
        limit,
        at: Some(then),
    };
    assert_eq!(keys(&store, "/p/", at(None, 2)).await, "/p/a=old /p/b=old +2");
    assert_eq!(keys(&store, "/p/", at(Some("/p/b"), 2)).await, "/p/c=old /p/d=old +0");
    assert_eq!(store.list("/p/", at(None, 1)).await.unwrap().revision, then);
    let now = keys(&store, "/p/", ListOptions::default()).await;
    assert_eq!(now, "/p/a=old /p/aa=new /p/b=newer /p/d=old /p/e=new +0");
    put(&store, "/p/f", "new").await;
    assert_eq!(keys(&store, "/p/", at(None, 1)).await, "/p/a=old +3");
    put(&store, "/p/g", "new").await;
    let error = store.list("/p/", at(None, 1)).await.unwrap_err();
    assert!(matches!(error, Error::Compacted { oldest } if oldest > then), "{error}");
    let future = ListOptions { at: Some(store.revision() + 1), ..ListOptions::default() };
    assert!(matches!(store.list("/p/", future).await, Err(Error::Future { .. })));
}

async fn a_watch_misses_nothing(open: Open<'_>) {
    let store = open(Options::default());
    let start = store.revision();
    put(&store, "/w/a", "1").await;
    let mut live = store.watch("/w/", store.revision()).unwrap();
    assert_quiet(&mut live).await;
    put(&store, "/w/a", "2").await;
    put(&store, "/v/a", "other").await;
    store.delete("/w/a", Expect::Any).await.unwrap();
    put(&store, "/w/a", "3").await;
    let since = |offset: u64| start + offset;
    let all = [
        format!("/w/a=1@{}", since(1)),
        format!("/w/a=2@{}<1", since(2)),
        format!("-/w/a@{}<2", since(4)),
        format!("/w/a=3@{}", since(5)),
    ];
    assert_eq!(take(&mut live, 3).await, all[1..]);
    assert_quiet(&mut live).await;
    for (after, expected) in
        [(0, &all[..]), (1, &all[1..]), (2, &all[2..]), (3, &all[2..]), (4, &all[3..])]
    {
        let mut watch = store.watch("/w/", since(after)).unwrap();
        assert_eq!(take(&mut watch, expected.len()).await, expected, "after {after}");
        assert_quiet(&mut watch).await;
    }
    assert_quiet(&mut store.watch("/w/", since(5)).unwrap()).await;
    assert!(matches!(store.watch("/w/", since(6)), Err(Error::Future { .. })));
    assert!(
        matches!(store.watch("/w/", start - 1), Err(Error::Compacted { oldest }) if oldest == start)
    );
}

async fn a_watch_sees_its_range_only(open: Open<'_>) {
    let store = open(Options::default());
    let start = store.revision();
    let mut watches = Vec::new();
    for range in ["/", "/a/", "/a/b/", "/a/b", "/a/b/x", "/c/"] {
        watches.push((range, store.watch(range, start).unwrap()));
    }
    for key in ["/a/b/x", "/a/b", "/a/bc", "/a/b/x/y"] {
        put(&store, key, "v").await;
    }
    for (range, watch) in &mut watches {
        let seen = match *range {
            "/" | "/a/" => "/a/b/x /a/b /a/bc /a/b/x/y",
            "/a/b/" => "/a/b/x /a/b/x/y",
            "/c/" => "",
            exact => exact,
        };
        if !seen.is_empty() {
            let events = watch.next().await.unwrap();
            let keys: Vec<&str> = events.iter().map(|event| &*event.entry.key).collect();
            assert_eq!(keys.join(" "), seen, "{range}");
        }
        assert_quiet(watch).await;
        assert_eq!(watch.progress(), store.revision());
    }
}

async fn a_watch_tells_its_progress(open: Open<'_>) {
    let store = open(Options::default());
    let mut watch = store.watch("/w/", store.revision()).unwrap();
    assert_eq!(watch.progress(), store.revision());
    let other = put(&store, "/v/a", "1").await;
    assert_eq!(watch.progress(), other);
    let first = put(&store, "/w/a", "1").await;
    put(&store, "/v/a", "1").await;
    assert_eq!(watch.progress(), first - 1);
    take(&mut watch, 1).await;
    assert_eq!(watch.progress(), store.revision());
    for number in 0..300 {
        put(&store, &format!("/w/{number}"), "1").await;
    }
    let part = watch.next().await.unwrap();
    assert!(part.len() < 300, "one answer is bounded");
    assert_eq!(watch.progress(), part.last().unwrap().entry.modified);
    take(&mut watch, 300 - part.len()).await;
    assert_eq!(watch.progress(), store.revision());
}

async fn a_slow_watch_is_told(open: Open<'_>) {
    let store = open(Options { history_events_max: 4, ..Options::default() });
    let start = store.revision();
    let mut slow = store.watch("/w/", start).unwrap();
    let mut quiet = store.watch("/q/", start).unwrap();
    for number in 0..5 {
        put(&store, &format!("/w/{number}"), "v").await;
    }
    assert!(matches!(slow.next().await, Err(Error::Lagged)));
    assert!(matches!(slow.next().await, Err(Error::Lagged)), "it stays so");
    let revision = put(&store, "/q/a", "v").await;
    assert_eq!(
        take(&mut quiet, 1).await,
        [format!("/q/a=v@{revision}")],
        "others do not push it out"
    );
    let compacted = store.watch("/w/", start).map(|_| ()).unwrap_err();
    let Error::Compacted { oldest } = compacted else { panic!("{compacted}") };
    assert_eq!(oldest, revision - 4);
    let mut watch = store.watch("/w/", oldest).unwrap();
    assert_eq!(watch.next().await.unwrap().len(), 3);
}

async fn the_change_log_is_bounded_by_bytes(open: Open<'_>) {
    let store = open(Options { history_bytes_max: 64 << 10, ..Options::default() });
    let start = store.revision();
    let big = "x".repeat(10 << 10);
    for number in 0..20 {
        put(&store, &format!("/w/{number}"), &big).await;
    }
    let Err(Error::Compacted { oldest }) = store.watch("/w/", start).map(|_| ()) else {
        panic!("nothing was dropped")
    };
    let kept = store.watch("/w/", oldest).unwrap().next().await.unwrap().len();
    assert!((1..=6).contains(&kept), "{kept}");
    let huge = "x".repeat(100 << 10);
    let revision = put(&store, "/w/huge", &huge).await;
    let newest = store.watch("/w/", revision - 1).unwrap().next().await.unwrap();
    assert_eq!(newest.len(), 1, "the newest is always kept");
}

async fn bad_input_is_refused(open: Open<'_>) {
    let store = open(Options::default());
    let long = format!("/{}", "x".repeat(2000));
    for key in ["", "a", "a/b", "/", "/a/", "/a\0b", &long] {
        let refused = |error: Error| matches!(error, Error::InvalidKey { .. });
        assert!(refused(store.put(key, Expect::Any, value("v")).await.unwrap_err()), "{key}");
        assert!(refused(store.get(key).await.unwrap_err()), "{key}");
        assert!(refused(store.delete(key, Expect::Any).await.unwrap_err()), "{key}");
    }
    for prefix in ["", "a/", "a", &long] {
        assert!(store.list(prefix, ListOptions::default()).await.is_err(), "{prefix}");
        assert!(store.watch(prefix, store.revision()).is_err(), "{prefix}");
    }
    let huge = NewValue { bytes: vec![0; 5 << 20].into(), stamp: None };
    let error = store.put("/k", Expect::Any, huge).await.unwrap_err();
    assert_eq!(error.to_string(), "value of /k has 5242880 bytes, the limit is 4194304");
    assert_eq!(
        format!("{:?}", store.put("/k", Expect::Any, value("secret")).await.unwrap().value.len()),
        "6"
    );
    let entry = store.get("/k").await.unwrap().unwrap();
    assert!(!format!("{entry:?}").contains("secret"), "{entry:?}");
}

async fn compare_and_set_counts_right(open: Open<'_>) {
    const WRITERS: u64 = 16;
    const EACH: u64 = 20;
    let store = open(Options::default());
    put(&store, "/n", "0").await;
    let mut watch = store.watch("/n", store.revision()).unwrap();
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..WRITERS {
        let store = store.clone();
        writers.spawn(async move {
            for _ in 0..EACH {
                let mut current = store.get("/n").await.unwrap().unwrap();
                loop {
                    let next = text(&current).parse::<u64>().unwrap() + 1;
                    let expect = Expect::Modified(current.modified);
                    match store.put("/n", expect, value(&next.to_string())).await {
                        Ok(_) => break,
                        Err(Error::Conflict { current: Some(newer) }) => current = newer,
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        });
    }
    let mut seen = Vec::new();
    while seen.len() < (WRITERS * EACH) as usize {
        seen.extend(watch.next().await.unwrap());
    }
    while let Some(joined) = writers.join_next().await {
        joined.unwrap();
    }
    for (number, event) in (1..).zip(&seen) {
        assert_eq!(text(&event.entry), number.to_string(), "{}", shown(event));
        assert_eq!(text(event.previous.as_ref().unwrap()), (number - 1).to_string());
    }
    assert_eq!(text(&store.get("/n").await.unwrap().unwrap()), (WRITERS * EACH).to_string());
}

async fn memory_is_bounded(open: Open<'_>) {
    let store = open(Options { memory_bytes_max: 1000, ..Options::default() });
    let size = |bytes: usize| value(&"x".repeat(bytes));
    store.put("/memory/a", Expect::Any, size(900)).await.unwrap();
    let error = store.put("/memory/b", Expect::Any, size(200)).await.unwrap_err();
    assert!(matches!(&error, Error::Full { .. }), "{error}");
    store.put("/memory/a", Expect::Any, size(800)).await.unwrap();
    store.put("/memory/b", Expect::Any, size(100)).await.unwrap();
    store.delete("/memory/a", Expect::Any).await.unwrap();
    store.put("/memory/c", Expect::Any, size(850)).await.unwrap();
}

async fn a_closed_store_says_so(open: Open<'_>) {
    let store = open(Options::default());
    let revision = put(&store, "/k", "v").await;
    let mut idle = store.watch("/k", revision).unwrap();
    let mut behind = store.watch("/k", revision - 1).unwrap();
    store.clone().close().await;
    assert!(matches!(idle.next().await, Err(Error::Closed)));
    assert_eq!(behind.next().await.unwrap().len(), 1, "what happened is still told");
    assert!(matches!(behind.next().await, Err(Error::Closed)));
    assert!(matches!(store.get("/k").await, Err(Error::Closed)));
    assert!(matches!(store.list("/", ListOptions::default()).await, Err(Error::Closed)));
    assert!(matches!(store.put("/k", Expect::Any, value("v")).await, Err(Error::Closed)));
    assert!(matches!(store.watch("/k", revision), Err(Error::Closed)));
    store.close().await;
}

async fn a_dropped_store_ends_its_watches(open: Open<'_>) {
    let store = open(Options::default());
    let mut watch = store.watch("/k", store.revision()).unwrap();
    drop(store);
    assert!(matches!(watch.next().await, Err(Error::Closed)));
}

async fn many_watches_share_the_values(open: Open<'_>) {
    let store = open(Options::default());
    let watches: Vec<_> = (0..50).map(|_| store.watch("/w/", store.revision()).unwrap()).collect();
    put(&store, "/w/a", "shared").await;
    let entry = store.get("/w/a").await.unwrap().unwrap();
    for mut watch in watches {
        let events = watch.next().await.unwrap();
        assert_eq!(events[0].entry.value.as_ptr(), entry.value.as_ptr());
        assert!(Arc::ptr_eq(&events[0].entry.key, &entry.key));
    }
}

macro_rules! backends {
    ($($test:ident),* $(,)?) => {
        mod sqlite {
            use crate::{Options, Store};

            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    let folder = tempfile::tempdir().unwrap();
                    let path = Some(folder.path().join("state.db"));
                    let durability = crate::tests::by_prefix;
                    super::$test(&|options| {
                        Store::open(Options { path: path.clone(), durability, ..options }).unwrap()
                    })
                    .await;
                }
            )*
        }

        /// With a cache so small that nearly every value is read back from the file.
        mod sqlite_uncached {
            use crate::{Options, Store};

            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    let folder = tempfile::tempdir().unwrap();
                    let path = Some(folder.path().join("state.db"));
                    let durability = crate::tests::by_prefix;
                    super::$test(&|options| {
                        let cache_bytes_max = 0;
                        Store::open(Options { path: path.clone(), durability, cache_bytes_max, ..options }).unwrap()
                    })
                    .await;
                }
            )*
        }

        mod memory {
            use crate::Store;

            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test(&|options| Store::open(options).unwrap()).await;
                }
            )*
        }
    };
}

backends!(
    a_missing_key_is_not_there,
    a_write_is_visible_when_answered,
    expectations_decide,
    a_value_can_carry_its_revision,
    lists_are_ordered_ranges,
    lists_come_in_pages,
    lists_can_look_back,
    a_watch_misses_nothing,
    a_watch_sees_its_range_only,
    a_watch_tells_its_progress,
    a_slow_watch_is_told,
    the_change_log_is_bounded_by_bytes,
    bad_input_is_refused,
    compare_and_set_counts_right,
    memory_is_bounded,
    a_closed_store_says_so,
    a_dropped_store_ends_its_watches,
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_are_shared_in_memory() {
    many_watches_share_the_values(&|options| Store::open(options).unwrap()).await;
}
