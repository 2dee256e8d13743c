//! Which page is shown: four addresses, and going from one to the other without a reload.
//!
//! leptos_router matches patterns, nests, guards and animates; with leptos_meta it weighs 32 KB in
//! the browser (Brotli), and this app needs none of that. A new page is a variant and three lines here.

use leptos::{either::EitherOf4, prelude::*};
use wasm_bindgen::JsCast;
use web_sys::{Element, MouseEvent};

use super::{about::AboutPage, home::HomePage, not_found::NotFoundPage, reset::ResetPage};

/// A page of the site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    Home,
    About,
    Reset,
    NotFound,
}

impl Route {
    /// The pages that have an address.
    pub const ALL: [Self; 3] = [Self::Home, Self::About, Self::Reset];

    pub const fn path(self) -> &'static str {
        match self {
            Self::Home | Self::NotFound => "/",
            Self::About => "/about",
            Self::Reset => "/reset",
        }
    }

    pub const fn title(self) -> &'static str {
        match self {
            Self::Home => "Counter · Tally",
            Self::About => "Your session · Tally",
            Self::Reset => "Reset · Tally",
            Self::NotFound => "Page not found · Tally",
        }
    }

    /// The page at an address's path.
    pub fn of(path: &str) -> Self {
        let known = Self::ALL.into_iter().find(|route| route.path() == path);
        known.unwrap_or(Self::NotFound)
    }
}

/// Where the visitor is.
#[derive(Clone, Copy)]
pub struct Location {
    route: RwSignal<Route>,
    /// Grows with each navigation: going to the page that one is on is a visit too.
    navigations: RwSignal<u32>,
}

impl Location {
    pub fn new(route: Route) -> Self {
        Self {
            route: RwSignal::new(route),
            navigations: RwSignal::new(0),
        }
    }

    /// Follows links and the browser's own buttons; in the browser alone.
    pub fn start(self) {
        window_event_listener(leptos::ev::click, move |event| {
            if let Some(route) = followed(&event) {
                event.prevent_default();
                self.go(route);
            }
        });
        window_event_listener(leptos::ev::popstate, move |_| {
            let path = window().location().pathname().unwrap_or_default();
            self.show(Route::of(&path));
        });
    }

    fn go(self, route: Route) {
        let path = Some(route.path());
        if let Ok(history) = window().history() {
            let _ = history.push_state_with_url(&wasm_bindgen::JsValue::NULL, "", path);
        }
        self.show(route);
        window().scroll_to_with_x_and_y(0.0, 0.0);
        // As after a load, the next thing that is read or reached is the page's own.
        if let Some(main) = document().get_element_by_id("main") {
            let _ = main.unchecked_into::<web_sys::HtmlElement>().focus();
        }
    }

    fn show(self, route: Route) {
        self.route.set(route);
        self.navigations.update(|navigations| *navigations += 1);
        document().set_title(route.title());
    }
}

/// The page that a click on a link leads to, unless the browser shall do it: another site's, or to
/// another tab.
fn followed(event: &MouseEvent) -> Option<Route> {
    let modified = event.meta_key() || event.ctrl_key() || event.shift_key() || event.alt_key();
    if event.default_prevented() || event.button() != 0 || modified {
        return None;
    }
    let target = event.target()?.dyn_into::<Element>().ok()?;
    let link = target.closest("a[href]").ok()??;
    if link.has_attribute("target") || link.has_attribute("download") || link.has_attribute("rel") {
        return None;
    }
    let route = Route::of(&link.get_attribute("href")?);
    (route != Route::NotFound).then_some(route)
}

/// The page at the visitor's address.
#[component]
pub fn Pages() -> impl IntoView {
    let location = expect_context::<Location>();
    move || {
        location.navigations.track();
        match location.route.get_untracked() {
            Route::Home => EitherOf4::A(HomePage()),
            Route::About => EitherOf4::B(AboutPage()),
            Route::Reset => EitherOf4::C(ResetPage()),
            Route::NotFound => EitherOf4::D(NotFoundPage()),
        }
    }
}

/// A link to a page of the site, which says when one is there.
#[component]
pub fn PageLink(route: Route, text: &'static str) -> impl IntoView {
    let location = expect_context::<Location>();
    let current = move || (location.route.get() == route).then_some("page");
    view! { <a href=route.path() aria-current=current>{text}</a> }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_is_found_by_its_address_and_nothing_else_is() {
        for route in Route::ALL {
            assert_eq!(Route::of(route.path()), route);
        }
        for path in ["", "/nowhere", "/about/", "//", "https://other.example/"] {
            assert_eq!(Route::of(path), Route::NotFound);
        }
    }
}
