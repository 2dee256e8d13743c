//! `/`: counts a visit for each load, and on request.

use std::collections::VecDeque;

use leptos::{ev::SubmitEvent, prelude::*, task::spawn_local};
use leptos_meta::Title;

use super::{CallError, PageState, Trouble, take_page_state};

/// Counts one visit and returns the new count. A form's redirect shows the count and adds nothing.
#[server(endpoint = "visit")]
pub async fn visit() -> Result<u64, CallError> {
    let by_form = crate::server::forms::called_by_form();
    let session = crate::session::Session::current()?;
    let request = session.request();
    let visits = session
        .update(move |visitor| {
            if by_form {
                visitor.show_next();
            }
            visitor.visit(request)
        })
        .await?;
    Ok(visits)
}

/// Sets the count to 0 and returns it.
#[server(endpoint = "reset")]
pub async fn reset() -> Result<u64, CallError> {
    let by_form = crate::server::forms::called_by_form();
    let session = crate::session::Session::current()?;
    let visits = session
        .update(move |visitor| {
            if by_form {
                visitor.show_next();
            }
            visitor.reset()
        })
        .await?;
    Ok(visits)
}

/// What the visitor asked for.
#[derive(Clone, Copy)]
enum Order {
    Visit,
    Reset,
}

/// The count on the page, and the visitor's orders, carried out one after the other: two quick
/// clicks count two, and answers can't overtake each other.
#[derive(Clone, Copy)]
struct Counter {
    visits: RwSignal<Option<u64>>,
    trouble: RwSignal<Option<CallError>>,
    waiting: StoredValue<VecDeque<Order>>,
    busy: RwSignal<bool>,
}

impl Counter {
    fn new(state: PageState) -> Self {
        let (visits, trouble) = match state {
            PageState::Home { visits, .. } => (Some(visits), None),
            PageState::Unavailable => (None, Some(CallError::Unavailable)),
            _ => (None, None),
        };
        Self {
            visits: RwSignal::new(visits),
            trouble: RwSignal::new(trouble),
            waiting: StoredValue::new(VecDeque::new()),
            busy: RwSignal::new(false),
        }
    }

    fn order(self, order: Order) {
        self.waiting
            .update_value(|waiting| waiting.push_back(order));
        if self.busy.get_untracked() {
            return;
        }
        self.busy.set(true);
        spawn_local(async move {
            // `None` also when the visitor has left the page meanwhile.
            while let Some(Some(order)) = self.waiting.try_update_value(VecDeque::pop_front) {
                let answer = match order {
                    Order::Visit => visit().await,
                    Order::Reset => reset().await,
                };
                self.show(answer);
            }
            self.busy.try_set(false);
        });
    }

    fn show(self, answer: Result<u64, CallError>) {
        match answer {
            Ok(visits) => {
                self.visits.try_set(Some(visits));
                self.trouble.try_set(None);
            }
            Err(error) => {
                self.trouble.try_set(Some(error));
            }
        }
    }
}

/// The counter's page.
#[component]
pub fn HomePage() -> impl IntoView {
    let state = take_page_state();
    let counter = Counter::new(state);
    if state == PageState::Plain {
        // The browser came here by itself: that is a visit too.
        Effect::new(move || counter.order(Order::Visit));
    }
    let on = move |order: Order| {
        move |event: SubmitEvent| {
            event.prevent_default();
            counter.order(order);
        }
    };
    view! {
        <Title text="Counter"/>
        <h1>"Every visit counts"</h1>
        <p class="count" role="status" aria-busy=move || counter.busy.get().to_string()>
            <span class="label">"Visit count: "</span>
            <Number visits=counter.visits/>
        </p>
        {matches!(state, PageState::Home { ended: true, .. })
            .then(|| view! { <p class="notice">"Your session ended elsewhere. This is a new one."</p> })}
        <Trouble message=counter.trouble/>
        <div class="actions">
            <form method="post" action="/api/visit" on:submit=on(Order::Visit)>
                <button type="submit" class="primary">"Count again"</button>
            </form>
            <form method="post" action="/api/reset" on:submit=on(Order::Reset)>
                <button type="submit">"Reset"</button>
            </form>
        </div>
    }
}

/// The number, made anew at each change so that its entrance is seen.
#[component]
fn Number(visits: RwSignal<Option<u64>>) -> impl IntoView {
    move || {
        let text = visits
            .get()
            .map_or("…".to_owned(), |visits| visits.to_string());
        view! { <strong class="number">{text}</strong> }
    }
}
