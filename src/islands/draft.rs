//! A form whose text is saved in the session, so that it survives a reload and appears in other tabs.

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
    visitor::MAX_DRAFT_LENGTH,
};

/// How long typing must have paused before the text is saved.
const PAUSE: Duration = Duration::from_millis(400);

/// Saves the text of the form.
#[server(endpoint = "draft", client = FetchClient, output = Json)]
pub async fn save_draft(draft: String) -> Result<Option<ClientSession>, CallError> {
    let change = move |visitor: &mut crate::visitor::Visitor| visitor.save_draft(&draft);
    let (saved, session) = crate::server::calls::update(change).await?;
    saved.map_err(CallError::from)?;
    Ok(session)
}

/// The form.
#[island]
pub fn Draft() -> impl IntoView {
    let store = store();
    let area = NodeRef::<Textarea>::new();
    let draft = Memo::new(move |_| store.view().map(|view| view.draft).unwrap_or_default());
    let pause = StoredValue::new(None::<TimeoutHandle>);
    let is_typing = RwSignal::new(false);
    let save = move || {
        if let Some(timeout) = pause.try_update_value(Option::take).flatten() {
            timeout.clear();
        }
        is_typing.set(false);
        if let Some(area) = area.get_untracked()
            && area.value() != draft.get_untracked()
        {
            store.actions.submit(save_action(area.value()));
        }
    };
    let on_input = move |_| {
        if let Some(timeout) = pause.try_update_value(Option::take).flatten() {
            timeout.clear();
        }
        is_typing.set(true);
        pause.set_value(set_timeout_with_handle(save, PAUSE).ok());
    };
    let on_submit = move |event: SubmitEvent| {
        event.prevent_default();
        save();
    };
    // Show the text of another tab, but never overwrite what the visitor is typing here.
    Effect::new(move || {
        let draft = draft.get();
        if let Some(area) = area.get()
            && !is_typing.get_untracked()
            && area.value() != draft
        {
            area.set_value(&draft);
        }
    });
    let state = move || match (
        is_typing.get() || store.actions.is_busy(),
        draft.with(String::is_empty),
    ) {
        (true, _) => "Saving …",
        (false, true) => "Nothing saved yet.",
        (false, false) => "Saved in your session.",
    };
    view! {
        <form method="post" action=SaveDraft::PATH class="draft" on:submit=on_submit>
            <label for="draft">"What would you keep in a session?"</label>
            <textarea
                id="draft"
                name="draft"
                rows="4"
                maxlength=MAX_DRAFT_LENGTH.to_string()
                aria-describedby="draft-state"
                node_ref=area
                on:input=on_input
                inner_html=as_html(&draft.get_untracked())
            ></textarea>
            <div class="actions">
                <button type="submit">"Save"</button>
                <p id="draft-state" class="soft">{state}</p>
            </div>
        </form>
    }
}

fn save_action(draft: String) -> SessionAction {
    let shown = draft.clone();
    SessionAction::new(
        move |view| view.draft.clone_from(&shown),
        move || save_draft(draft.clone()),
        "The draft was not saved.",
    )
}

/// Escapes the text of a textarea, for `inner_html`.
///
/// As a child of the textarea, some releases of Leptos escape the text and others don't. The leading line break is
/// there because the HTML parser drops the first line break of a textarea.
fn as_html(text: &str) -> String {
    format!("\n{}", text.replace('&', "&amp;").replace('<', "&lt;"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_escaped_exactly_once() {
        assert_eq!(as_html("a & <b>"), "\na &amp; &lt;b>");
        let html = view! { <textarea inner_html=as_html("&amp;</textarea>")></textarea> }.to_html();
        let shown = "\n&amp;amp;&lt;/textarea></textarea>";
        assert!(html.ends_with(shown), "{html}");
    }
}
