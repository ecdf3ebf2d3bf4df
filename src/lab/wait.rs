//! Waiting for something to come true, with a deadline.

use std::time::Duration;

use super::LabError;
use crate::clock;

/// Time between two looks; short against everything that is waited for.
const LOOK: Duration = Duration::from_millis(4);

/// Looks again and again until `check` returns a value, at most for `limit`.
///
/// The last `Err` of `check` is told in the error: what was seen instead.
pub async fn until<T>(
    what: &str,
    limit: Duration,
    mut check: impl AsyncFnMut() -> Result<T, String>,
) -> Result<T, LabError> {
    let start = clock::now();
    let mut state = String::new();
    loop {
        let left = limit.saturating_sub(clock::now().since(start));
        match tokio::time::timeout(left.max(LOOK), check()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(seen)) => state = format!(": {seen}"),
            Err(_) => {}
        }
        if clock::now().since(start) >= limit {
            return Err(LabError::Late {
                what: what.to_owned(),
                limit,
                state,
            });
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_says_what_was_seen_when_it_is_late() {
        let limit = Duration::from_millis(20);
        let late = until("a miracle", limit, async || Err::<(), _>("nothing".into())).await;
        assert_eq!(
            late.unwrap_err().to_string(),
            "a miracle did not happen within 20ms: nothing"
        );
    }

    #[tokio::test]
    async fn it_ends_as_soon_as_it_is_true() {
        let mut looks = 0;
        let found = until("the third look", Duration::from_secs(5), async || {
            looks += 1;
            if looks == 3 {
                Ok(looks)
            } else {
                Err(String::new())
            }
        });
        assert_eq!(found.await.unwrap(), 3);
    }
}
