//! A form whose text survives a reload, and follows to another tab, because the session keeps it.

use std::time::Duration;

use leptos::{
    ev::SubmitEvent, html::Textarea, leptos_dom::helpers::TimeoutHandle, prelude::*,
    server_fn::ServerFn,
};

use super::store::{SessionAction, store};
use crate::{
    browser::{client::FetchClient, json::Json},
    call_error::CallError,
    client_session::ClientSession,
    visitor::LONGEST_DRAFT,
};

/// How long the visitor must have stopped typing before the text is kept.
const PAUSE: Duration = Duration::from_millis(400);

/// Keeps what was written into the form.
#[server(endpoint = "draft", client = FetchClient, output = Json)]
pub async fn keep_draft(draft: String) -> Result<Option<ClientSession>, CallError> {
    let change = move |visitor: &mut crate::visitor::Visitor| visitor.keep_draft(&draft);
    let (kept, session) = crate::server::calls::update(change).await?;
    kept.map_err(CallError::from)?;
    Ok(session)
}

/// The form.
#[island]
pub fn Draft() -> impl IntoView {
    let store = store();
    let area = NodeRef::<Textarea>::new();
    let kept = Memo::new(move |_| store.view().map(|view| view.draft).unwrap_or_default());
    let typing = StoredValue::new(None::<TimeoutHandle>);
    let is_typing = RwSignal::new(false);
    let keep = move || {
        if let Some(timeout) = typing.try_update_value(Option::take).flatten() {
            timeout.clear();
        }
        is_typing.set(false);
        if let Some(area) = area.get_untracked()
            && area.value() != kept.get_untracked()
        {
            store.actions.submit(keeping(area.value()));
        }
    };
    let on_input = move |_| {
        if let Some(timeout) = typing.try_update_value(Option::take).flatten() {
            timeout.clear();
        }
        is_typing.set(true);
        typing.set_value(set_timeout_with_handle(keep, PAUSE).ok());
    };
    let on_submit = move |event: SubmitEvent| {
        event.prevent_default();
        keep();
    };
    // What another tab wrote; never over what is being typed here.
    Effect::new(move || {
        let kept = kept.get();
        if let Some(area) = area.get()
            && !is_typing.get_untracked()
            && area.value() != kept
        {
            area.set_value(&kept);
        }
    });
    let state = move || match (
        is_typing.get() || store.actions.is_busy(),
        kept.with(String::is_empty),
    ) {
        (true, _) => "Keeping …",
        (false, true) => "Nothing is written yet.",
        (false, false) => "Kept in your session.",
    };
    view! {
        <form method="post" action=KeepDraft::PATH class="draft" on:submit=on_submit>
            <label for="draft">"What would you keep in a session?"</label>
            <textarea
                id="draft"
                name="draft"
                rows="4"
                maxlength=LONGEST_DRAFT.to_string()
                aria-describedby="draft-state"
                node_ref=area
                on:input=on_input
                inner_html=as_html(&kept.get_untracked())
            ></textarea>
            <div class="actions">
                <button type="submit">"Keep it"</button>
                <p id="draft-state" class="soft">{state}</p>
            </div>
        </form>
    }
}

fn keeping(draft: String) -> SessionAction {
    let shown = draft.clone();
    SessionAction::new(
        move |view| view.draft.clone_from(&shown),
        move || keep_draft(draft.clone()),
        "The draft was not kept.",
    )
}

/// The text as HTML, which Leptos takes as it is: as a child of a textarea it would be escaped by some releases and not
/// by others. A browser takes the first line break there for no text.
fn as_html(text: &str) -> String {
    format!("\n{}", text.replace('&', "&amp;").replace('<', "&lt;"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_escaped_once_and_ends_no_textarea() {
        assert_eq!(as_html("a & <b>"), "\na &amp; &lt;b>");
        let html = view! { <textarea inner_html=as_html("&amp;</textarea>")></textarea> }.to_html();
        let shown = "\n&amp;amp;&lt;/textarea></textarea>";
        assert!(html.ends_with(shown), "{html}");
    }
}
