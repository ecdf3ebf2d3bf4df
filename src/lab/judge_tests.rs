//! Hand-made histories: the judge finds each kind of violation, and nothing in a clean run.

use super::*;

fn at(millis: u64) -> Timestamp {
    Timestamp::from_start(Duration::from_millis(millis))
}

fn operation(token: u64, outcome: Outcome) -> Operation {
    Operation {
        token,
        started: at(token * 10),
        ended: at(token * 10 + 1),
        outcome,
    }
}

fn done(token: u64) -> Operation {
    operation(token, Outcome::Done(token))
}

fn failed(token: u64, class: ErrorClass) -> Operation {
    operation(token, Outcome::Failed(class, "a test".into()))
}

fn client(kind: Kind, operations: Vec<Operation>, last: Last) -> ClientHistory {
    ClientHistory {
        kind,
        group: 0,
        operations,
        last,
    }
}

fn judged(clients: Vec<ClientHistory>) -> Tally {
    judge(&History { clients }).total()
}

fn counter(values: &[u64], last: u64) -> Tally {
    let operations = values.iter().enumerate().map(|(index, value)| match value {
        0 => failed(index as u64 + 1, ErrorClass::Unknown),
        value => operation(index as u64 + 1, Outcome::Done(*value)),
    });
    judged(vec![client(
        Kind::Counter,
        operations.collect(),
        Last::Number(last),
    )])
}

#[test]
fn a_clean_counter_is_clean() {
    let tally = counter(&[1, 2, 3], 3);
    assert_eq!((tally.lost, tally.doubled, tally.broken()), (0, 0, 0));
    assert_eq!(tally.acknowledged, 3);
}

#[test]
fn a_counter_that_went_back_lost_writes() {
    assert_eq!(counter(&[1, 2, 3, 2], 2).lost, 2);
    assert_eq!(counter(&[1, 2, 3], 1).lost, 2);
}

#[test]
fn a_counter_that_jumped_doubled_writes() {
    assert_eq!(counter(&[1, 3], 3).doubled, 1);
    assert_eq!(counter(&[1, 2], 4).doubled, 2);
}

#[test]
fn an_unknown_increment_is_neither_lost_nor_doubled() {
    for tally in [
        counter(&[1, 0, 3], 3),
        counter(&[1, 0, 2], 2),
        counter(&[1, 0], 2),
    ] {
        assert_eq!((tally.lost, tally.doubled), (0, 0));
        assert_eq!(tally.errors_of(ErrorClass::Unknown), 1);
    }
    assert_eq!(counter(&[1, 0, 4], 4).doubled, 1);
}

#[test]
fn a_refused_increment_that_ran_is_found() {
    let operations = vec![done(1), failed(2, ErrorClass::NotExecuted)];
    let tally = judged(vec![client(Kind::Counter, operations, Last::Number(2))]);
    assert_eq!(tally.doubled, 1);
    let operations = vec![done(1), failed(2, ErrorClass::NotExecuted)];
    let tally = judged(vec![client(
        Kind::Appender,
        operations,
        Last::List(vec![1, 2]),
    )]);
    assert_eq!(tally.ran_although_refused, 1);
}

#[test]
fn a_ring_shows_every_lost_write_after_its_last_value() {
    let writes = |last| {
        let operations = (1..=6).map(done).collect();
        judged(vec![client(Kind::Setter, operations, Last::Ring(last))])
    };
    assert_eq!(writes(vec![Some(4), Some(5), Some(6), Some(3)]).broken(), 0);
    assert_eq!(writes(vec![Some(4), Some(5), Some(6), Some(3)]).lost, 0);
    assert_eq!(writes(vec![Some(4), Some(1), Some(2), Some(3)]).lost, 2);
    assert_eq!(writes(vec![Some(4), None, Some(6), Some(3)]).lost, 2);
    assert_eq!(writes(vec![Some(4), Some(5), Some(6), Some(7)]).wrong, 1);
}

#[test]
fn an_unacknowledged_set_may_be_there_or_not() {
    for last in [Some(1), Some(2)] {
        let operations = vec![done(1), failed(2, ErrorClass::Closed)];
        let tally = judged(vec![client(
            Kind::Setter,
            operations,
            Last::Ring(vec![last]),
        )]);
        assert_eq!((tally.lost, tally.broken()), (0, 0));
        assert_eq!(tally.errors_of(ErrorClass::Closed), 1);
    }
}

#[test]
fn a_list_shows_loss_doubling_order_and_strangers() {
    let list = |list: &[u64]| {
        let operations = (1..=4).map(done).collect();
        judged(vec![client(
            Kind::Appender,
            operations,
            Last::List(list.to_vec()),
        )])
    };
    assert_eq!(list(&[1, 2, 3, 4]).broken(), 0);
    assert_eq!(list(&[1, 2, 4]).lost, 1);
    assert_eq!(list(&[1, 2, 2, 3, 4]).doubled, 1);
    assert_eq!(list(&[1, 3, 2, 4]).disordered, 1);
    assert_eq!(list(&[1, 2, 3, 4, 9]).wrong, 1);
}

fn queue(popped: &[Outcome], left: &[u64]) -> Tally {
    let popped = popped.iter().enumerate();
    judged(vec![
        client(Kind::Pusher, (1..=3).map(done).collect(), Last::None),
        client(
            Kind::Popper,
            popped
                .map(|(i, o)| operation(i as u64, o.clone()))
                .collect(),
            Last::List(left.to_vec()),
        ),
    ])
}

#[test]
fn a_queue_gives_every_element_once() {
    use Outcome::{Done, Nothing};
    assert_eq!(queue(&[Done(1), Nothing, Done(2)], &[3]).broken(), 0);
    assert_eq!(queue(&[Done(1), Nothing, Done(2)], &[3]).lost, 0);
    assert_eq!(queue(&[Done(1), Done(3)], &[]).lost, 1);
    assert_eq!(queue(&[Done(1), Done(2), Done(2)], &[3]).lost, 1);
    assert_eq!(queue(&[Done(1), Done(2)], &[2, 3]).lost, 1);
    assert_eq!(queue(&[Done(2), Done(1)], &[3]).disordered, 1);
    assert_eq!(queue(&[Done(1), Done(2), Done(8)], &[3]).wrong, 1);
}

#[test]
fn a_pop_without_an_answer_may_have_taken_one_element() {
    let unknown = Outcome::Failed(ErrorClass::Unknown, "lost".into());
    assert_eq!(queue(&[Outcome::Done(1), unknown.clone()], &[3]).lost, 0);
    assert_eq!(queue(&[unknown], &[3]).lost, 1);
}

#[test]
fn a_channel_counts_gaps_and_finds_repetition_and_disorder() {
    let channel = |received: &[u64]| {
        let received = received.iter().map(|token| done(*token)).collect();
        judged(vec![
            client(Kind::Publisher, (1..=4).map(done).collect(), Last::None),
            client(Kind::Subscriber, received, Last::None),
        ])
    };
    assert_eq!(channel(&[1, 2, 3, 4]).gaps, 0);
    assert_eq!(channel(&[1, 4]).gaps, 2);
    assert_eq!(channel(&[1, 4]).broken(), 0);
    assert_eq!(channel(&[1, 2, 2, 3, 4]).doubled, 1);
    assert_eq!(channel(&[2, 1, 3, 4]).disordered, 1);
    assert_eq!(channel(&[1, 2, 3, 4, 5]).wrong, 1);
}

#[test]
fn half_a_transaction_is_torn() {
    let operations: Vec<_> = (1..=2).map(done).collect();
    let tally = judged(vec![client(
        Kind::Transaction,
        operations,
        Last::Pair(2, 1),
    )]);
    assert_eq!(tally.torn, 1);
}

#[test]
fn watchers_together_count_exactly() {
    let watchers = |last: u64| {
        let one = client(Kind::Watcher, vec![done(1), done(2)], Last::Number(last));
        let unknown = vec![done(3), failed(4, ErrorClass::Unknown)];
        let two = client(Kind::Watcher, unknown, Last::Number(last));
        judged(vec![one, two])
    };
    for last in [3, 4] {
        assert_eq!((watchers(last).lost, watchers(last).doubled), (0, 0));
    }
    assert_eq!(watchers(2).lost, 1);
    assert_eq!(watchers(5).doubled, 1);
}

#[test]
fn a_pause_is_the_time_an_operation_was_waited_for() {
    let mut operations: Vec<_> = (1..=3).map(done).collect();
    operations[1].ended = at(95);
    operations[2].started = at(95);
    operations[2].ended = at(96);
    let tally = judged(vec![client(Kind::Reader, operations, Last::None)]);
    assert_eq!(tally.longest_pause, Duration::from_millis(75));
    assert_eq!(tally.pause_began, at(20));
}

#[test]
fn the_pause_of_a_pipeline_is_between_its_replies() {
    let mut operations: Vec<_> = (1..=3).map(done).collect();
    for (operation, ended) in operations.iter_mut().zip([1, 40, 42]) {
        operation.started = at(0);
        operation.ended = at(ended);
    }
    let tally = judged(vec![client(Kind::Pipeline, operations, Last::None)]);
    assert_eq!(tally.longest_pause, Duration::from_millis(39));
}

#[test]
fn wrong_replies_and_forbidden_errors_are_counted() {
    let wrong = operation(1, Outcome::Wrong("+QUEUED".into()));
    let unknown = failed(2, ErrorClass::Unknown);
    let verdict = judge(&History {
        clients: vec![
            client(Kind::Reader, vec![wrong, unknown.clone()], Last::None),
            client(Kind::Counter, vec![unknown], Last::None),
        ],
    });
    assert_eq!(verdict.total().wrong, 1);
    // Outcome unknown is allowed for an increment and not for a read.
    assert_eq!(verdict.forbidden_errors(), 1);
    assert!(verdict.to_string().contains("+QUEUED"));
}
