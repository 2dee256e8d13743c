//! The form encoding (`name=value&…`) of what is sent to pages.

use url::form_urlencoded::Serializer;

use crate::snapshot::Write;

/// The text of what `write` writes.
pub fn form(write: impl FnOnce(Write)) -> String {
    let mut fields = Serializer::new(String::new());
    write(&mut |name, value| {
        fields.append_pair(name, value);
    });
    fields.finish()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use url::form_urlencoded;

    use super::*;
    use crate::{
        app::{Page, PageState, router::Route},
        snapshot::{News, Snapshot},
        visitor::{Shown, Theme},
    };

    fn read<T>(text: &str, read: impl Fn(crate::snapshot::Read) -> T) -> T {
        let fields: Vec<_> = form_urlencoded::parse(text.as_bytes()).collect();
        read(&|name| {
            let field = fields.iter().find(|(other, _)| other == name);
            field.map(|(_, value)| value.to_string())
        })
    }

    fn snapshots() -> impl Strategy<Value = Snapshot> {
        let visitor = (any::<u64>(), 0..3_usize, any::<String>());
        (visitor, any::<u64>(), any::<[i64; 3]>(), any::<u64>()).prop_map(
            |((visits, theme, draft), revision, [now, began, ends], bytes)| Snapshot {
                visitor: Shown {
                    visits,
                    theme: Theme::ALL[theme],
                    draft,
                },
                revision,
                now,
                began,
                ends,
                bytes,
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_sent_is_what_arrives(snapshot in snapshots(), has_session: bool, page in 0..8_usize) {
            let news = News::State(Box::new(snapshot.clone()));
            prop_assert_eq!(read(&form(|write| news.write(write)), News::read), Some(news));
            let (route, page) = [
                (Route::Home, Page::Crowded),
                (Route::Home, Page::Home { ended: true }),
                (Route::Home, Page::Home { ended: false }),
                (Route::About, Page::About { worked: true }),
                (Route::About, Page::About { worked: false }),
                (Route::Reset, Page::Reset { done: true }),
                (Route::Reset, Page::Unavailable),
                (Route::NotFound, Page::Plain),
            ][page];
            // A page that has asked for nothing knows of no session.
            let has_session = has_session && page != Page::Plain;
            let snapshot = has_session.then_some(snapshot);
            let state = PageState { route, page, snapshot };
            prop_assert_eq!(read(&form(|write| state.write(write)), PageState::read), state);
        }
    }

    #[test]
    fn words_arrive_too_and_nonsense_is_nothing() {
        for news in [News::Ended, News::Replaced, News::Beat] {
            assert_eq!(
                read(&form(|write| news.write(write)), News::read),
                Some(news)
            );
        }
        assert_eq!(read("visits=many&revision=1", News::read), None);
        assert_eq!(read("", PageState::read), PageState::PLAIN);
    }
}
