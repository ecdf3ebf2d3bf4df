//! The contract of `control::source`.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use pointsman::control::source::{Source, StaticSource};
use pointsman::topology::NodeId;

async fn ready<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|context| {
        Poll::Ready(match future.as_mut().poll(context) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        })
    })
    .await
}

#[tokio::test]
async fn static_1_and_3_the_full_set_at_once_in_order_then_silence() {
    let nodes = vec![NodeId::new("b:1"), NodeId::new("a:1")];
    let mut source = StaticSource::new(nodes.clone());
    drop(source.next());
    assert_eq!(ready(source.next()).await, Some(nodes));
    assert_eq!(ready(source.next()).await, None);
}
