use ruma::{owned_event_id, owned_room_id, owned_user_id};

use super::*;
use crate::users::testing::Bench;

fn about_a_user() -> ReportSubject {
    ReportSubject::User(owned_user_id!("@mallory:example.org"))
}

async fn report(bench: &Bench, reporter: &str) -> Result<(), UsersError> {
    let reporter = OwnedUserId::try_from(reporter).unwrap();
    bench.users.report(reporter, about_a_user(), None, "rude".to_owned()).await
}

#[tokio::test]
async fn reports_are_kept_until_they_are_removed() {
    let bench = Bench::new().await;
    let users = &bench.users;
    let alice = owned_user_id!("@alice:example.org");
    let (room_id, event_id) = (owned_room_id!("!a:example.org"), owned_event_id!("$a"));
    let event = ReportedEvent {
        sender: owned_user_id!("@mallory:example.org"),
        event_type: "m.room.message".to_owned(),
        content: "é".repeat(MAX_CONTENT_BYTES),
    };
    let subject = ReportSubject::Event(room_id, event_id);
    users.report(alice.clone(), subject.clone(), Some(event), "rude".to_owned()).await.unwrap();
    report(&bench, "@bob:example.org").await.unwrap();

    let listed = users.reports(None).await.unwrap();
    assert_eq!(listed.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(users.reports(Some(2)).await.unwrap(), listed.get(1..).unwrap());
    let first = users.get_report(1).await.unwrap().unwrap();
    assert_eq!((first.reporter, first.subject, &*first.reason), (alice, subject, "rude"));
    let kept = first.event.unwrap().content;
    assert!(kept.ends_with('…') && kept.len() <= MAX_CONTENT_BYTES + '…'.len_utf8());

    assert!(users.remove_report(1).await.unwrap());
    assert!(!users.remove_report(1).await.unwrap());
    assert!(users.get_report(1).await.unwrap().is_none());
    report(&bench, "@bob:example.org").await.unwrap();
    assert_eq!(users.reports(None).await.unwrap().first().unwrap().0, 3);
}

#[tokio::test]
async fn nobody_fills_the_list() {
    let bench = Bench::new().await;
    for _ in 0..MAX_OF_USER {
        report(&bench, "@alice:example.org").await.unwrap();
    }
    let refused = report(&bench, "@alice:example.org").await;
    assert!(matches!(refused, Err(UsersError::Busy(_))), "{refused:?}");
    report(&bench, "@bob:example.org").await.unwrap();
    assert!(bench.users.remove_report(1).await.unwrap());
    report(&bench, "@alice:example.org").await.unwrap();
    // What was counted while reports came in is what a start finds.
    let counts = bench.users.count_reports().await.unwrap();
    assert_eq!(counts.total, MAX_OF_USER + 1);
    assert_eq!(counts.of_user.len(), 2);
    let long = "a".repeat(MAX_REASON_BYTES + 1);
    let carol = owned_user_id!("@carol:example.org");
    let refused = bench.users.report(carol, about_a_user(), None, long).await;
    assert!(matches!(refused, Err(UsersError::TooLarge { .. })), "{refused:?}");
}
