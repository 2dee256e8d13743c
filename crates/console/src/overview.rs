//! The overview: what happened in the last hour, day and month, as pictures with their numbers.

use leptos::prelude::*;

use tally_session::{
    SessionError, SessionManager, SessionState, Statistics,
    store::{Bucket, Resolution},
};

use crate::{
    charts::{Chart, Series, Shape},
    format,
    layout::{Page, html},
    live,
    mount::Mount,
};

/// What the overview shows.
#[derive(Debug)]
pub struct Overview {
    history: Statistics,
    /// `None`: the engine can't tell.
    alive: Option<u64>,
    /// The same.
    sign_ins: Option<u64>,
    /// Whether a change reaches the open pages of other servers.
    notifies_servers: bool,
    store: String,
}

/// A part of the page that changes by itself: its name, and what is in it, as HTML.
pub type Part = (String, String);

/// One chart: what it shows, of which steps, and how.
struct Figure {
    /// The name of its part; the table's has `-table` behind it.
    name: String,
    title: String,
    spans: Vec<Bucket>,
    step: Resolution,
    rows: Vec<Row>,
}

#[derive(Clone)]
struct Row {
    name: String,
    shape: Shape,
    measure: Measure,
}

/// What a row shows of a step.
#[derive(Clone, Copy)]
enum Measure {
    Count(fn(&Bucket) -> u64),
    /// The application's own counter at this place.
    Counter(usize),
    Milliseconds,
}

impl Measure {
    /// The height on the chart.
    #[expect(clippy::cast_precision_loss, reason = "the height of a bar")]
    fn height(self, span: &Bucket) -> f64 {
        match self {
            Self::Count(_) | Self::Counter(_) => self.count(span) as f64,
            Self::Milliseconds => span.counts.milliseconds(),
        }
    }

    /// The same in words, for the table.
    fn words(self, span: &Bucket) -> String {
        match self {
            Self::Count(_) | Self::Counter(_) => format::number(self.count(span)),
            Self::Milliseconds => format::milliseconds(span.counts.milliseconds()),
        }
    }

    fn count(self, span: &Bucket) -> u64 {
        match self {
            Self::Count(count) => count(span),
            Self::Counter(place) => span.counts.counters.get(place).copied().unwrap_or(0),
            Self::Milliseconds => 0,
        }
    }
}

fn row(name: &str, shape: Shape, measure: Measure) -> Row {
    let name = name.to_owned();
    Row {
        name,
        shape,
        measure,
    }
}

fn count(name: &str, shape: Shape, count: fn(&Bucket) -> u64) -> Row {
    row(name, shape, Measure::Count(count))
}

/// Active sessions: those that were written in a step.
fn active() -> Row {
    count("Active sessions", Shape::Line, |span| {
        span.active.unwrap_or(0)
    })
}

/// A name as it begins a title.
fn capitalized(name: &str) -> String {
    let mut letters = name.chars();
    let first = letters.next().into_iter().flat_map(char::to_uppercase);
    first.chain(letters).collect()
}

/// A part as it stands in the page, and as it is sent when it has changed.
pub fn part((name, html): Part) -> impl IntoView {
    view! { <div data-part=name inner_html=html></div> }
}

impl Overview {
    /// What there is to show now.
    ///
    /// # Errors
    /// When the store can't be asked.
    pub async fn load<S: SessionState>(
        sessions: &SessionManager<S>,
        store: &str,
    ) -> Result<Self, SessionError> {
        Ok(Self {
            history: sessions.statistics().await?,
            alive: sessions.count().await?,
            sign_ins: sessions.count_sign_ins().await?,
            notifies_servers: sessions.notifies_servers(),
            store: store.to_owned(),
        })
    }

    /// The whole page.
    pub fn page(&self, mount: &Mount) -> Page {
        let (tiles, figures) = (self.tiles(), self.figures());
        let figures: Vec<_> = figures
            .into_iter()
            .map(|figure| {
                let (title, rows) = (figure.title.clone(), figure.rows.len());
                let key: Vec<_> = figure
                    .rows
                    .iter()
                    .enumerate()
                    .map(|(place, row)| key(place, row))
                    .collect();
                view! {
                    <figure>
                        <figcaption>{title.clone()} {(rows > 1).then(|| view! { <span class="keys">{key}</span> })}</figcaption>
                        {part(chart(&figure))}
                        <details>
                            <summary>"The numbers" <span class="visually-hidden">": " {title}</span></summary>
                            {part(table(&figure))}
                        </details>
                    </figure>
                }
            })
            .collect();
        let body = html(|| {
            view! {
                <div data-live=mount.path(live::PATH)>
                    {part(tiles)}
                    {self.shortcomings().into_iter().map(|text| view! { <p class="soft">{text}</p> }).collect::<Vec<_>>()}
                    <div class="charts">{figures}</div>
                </div>
            }
        });
        Page::new("Overview", body)
    }

    /// The parts that change, as they are now.
    pub fn parts(&self) -> Vec<Part> {
        let mut parts = vec![self.tiles()];
        for figure in self.figures() {
            parts.push(chart(&figure));
            parts.push(table(&figure));
        }
        parts
    }

    /// What this engine can't offer, in words.
    fn shortcomings(&self) -> Vec<String> {
        let mut texts = Vec::new();
        if !self.history.shared {
            texts.push(format!(
                "{} keeps no counts: what is shown here was counted by this server alone, since its \
                 start, and active sessions are not counted. Redis keeps both.",
                self.store
            ));
        }
        if self.alive.is_none() {
            texts.push(format!(
                "{} can't tell how many sessions are alive.",
                self.store
            ));
        }
        if !self.notifies_servers {
            texts.push(format!(
                "{} can't notify other servers: an open page follows the changes of its own server.",
                self.store
            ));
        }
        texts
    }

    fn tiles(&self) -> Part {
        let lately = &self.history.history;
        let (minute, today) = (lately.minutes.last(), lately.days.last());
        let last_hour = lately.minutes.iter();
        let conflicts = last_hour.map(|span| span.counts.conflicts).sum::<u64>();
        let latency = lately
            .minutes
            .iter()
            .rev()
            .find(|span| span.counts.operations > 0);
        let unknown = || "unknown".to_owned();
        let number = |value: Option<u64>| value.map_or_else(unknown, format::number);
        let tile =
            |name: String, value: String| view! { <div><dt>{name}</dt><dd>{value}</dd></div> };
        let counters = self.counters().into_iter().flat_map(|row| {
            let (name, measure) = (row.name.to_lowercase(), row.measure);
            let count = |span: Option<&Bucket>| number(span.map(|span| measure.count(span)));
            [
                tile(format!("{name} this minute"), count(minute)),
                tile(format!("{name} today"), count(today)),
            ]
        });
        let counters: Vec<_> = counters.collect();
        let tile = |name: &str, value: String| tile(name.to_owned(), value);
        let tiles = view! {
            <dl class="tiles">
                {tile("sessions alive", number(self.alive))}
                {self.sign_ins.map(|count| tile("signed in", format::number(count)))}
                {counters}
                {tile("active sessions today", number(today.and_then(|span| span.active)))}
                {tile("sessions created today", number(today.map(|span| span.counts.created)))}
                {tile("sessions ended today", number(today.map(|span| span.counts.ended)))}
                {tile("store, on average", latency.map_or_else(unknown, |span| format!("{} ms", format::milliseconds(span.counts.milliseconds()))))}
                {tile("conflicts in the last hour", format::number(conflicts))}
            </dl>
        };
        ("tiles".to_owned(), html(|| tiles))
    }

    /// What the application counts, or the changes saved where it counts nothing of its own.
    fn counters(&self) -> Vec<Row> {
        let named = |(place, name): (usize, &&str)| {
            row(&capitalized(name), Shape::Bars, Measure::Counter(place))
        };
        let counters: Vec<Row> = self
            .history
            .counters
            .iter()
            .enumerate()
            .map(named)
            .collect();
        if counters.is_empty() {
            vec![count("Changes saved", Shape::Bars, |span| {
                span.counts.changes
            })]
        } else {
            counters
        }
    }

    fn figures(&self) -> Vec<Figure> {
        let (minute, hour, day) = (Resolution::Minute, Resolution::Hour, Resolution::Day);
        let mut figures = Vec::new();
        for (place, counter) in self.counters().into_iter().enumerate() {
            let title = |step: &str| match step {
                "minute" => format!("{} per minute", counter.name),
                _ if !self.history.shared => format!("{} per {step}", counter.name),
                _ => format!("{} and active sessions per {step}", counter.name),
            };
            let with_active = || {
                let active = self.history.shared.then(active);
                [counter.clone()].into_iter().chain(active).collect()
            };
            let name = |step: &str| format!("counter-{place}-{step}");
            figures.extend([
                self.figure(
                    name("minutes"),
                    title("minute"),
                    minute,
                    vec![counter.clone()],
                ),
                self.figure(name("hours"), title("hour"), hour, with_active()),
                self.figure(name("days"), title("day"), day, with_active()),
            ]);
        }
        let created = count("Created", Shape::Bars, |span| span.counts.created);
        let ended = count("Ended", Shape::Line, |span| span.counts.ended);
        let changes = count("Changes", Shape::Bars, |span| span.counts.changes);
        let time = row("Milliseconds", Shape::Bars, Measure::Milliseconds);
        let conflicts = count("Conflicts", Shape::Bars, |span| span.counts.conflicts);
        for (name, title, step, rows) in [
            (
                "sessions",
                "Sessions created and ended per hour",
                hour,
                vec![created, ended],
            ),
            ("changes", "Changes saved per hour", hour, vec![changes]),
            (
                "latency",
                "The store’s time per operation, by minute",
                minute,
                vec![time],
            ),
            (
                "conflicts",
                "Conflicts between servers per minute",
                minute,
                vec![conflicts],
            ),
        ] {
            figures.push(self.figure(name.to_owned(), title.to_owned(), step, rows));
        }
        figures
    }

    fn figure(&self, name: String, title: String, step: Resolution, rows: Vec<Row>) -> Figure {
        let history = &self.history.history;
        let spans = match step {
            Resolution::Minute => &history.minutes,
            Resolution::Hour => &history.hours,
            Resolution::Day => &history.days,
        };
        Figure {
            name,
            title,
            spans: spans.clone(),
            step,
            rows,
        }
    }
}

/// Which colour is what.
fn key(place: usize, row: &Row) -> impl IntoView + use<> {
    let line = if row.shape == Shape::Line {
        " line"
    } else {
        ""
    };
    let second = if place > 0 { " second" } else { "" };
    view! { <span class=format!("key{line}{second}")>{row.name.clone()}</span> }
}

impl Figure {
    fn time(&self, span: &Bucket) -> String {
        match self.step {
            Resolution::Minute | Resolution::Hour => format::clock(span.began),
            Resolution::Day => format::day(span.began),
        }
    }

    fn chart(&self) -> Chart {
        let series = |row: &Row| Series {
            shape: row.shape,
            values: self
                .spans
                .iter()
                .map(|span| row.measure.height(span))
                .collect(),
        };
        Chart {
            times: self.spans.iter().map(|span| self.time(span)).collect(),
            series: self.rows.iter().map(series).collect(),
        }
    }
}

fn chart(figure: &Figure) -> Part {
    let picture = html(|| {
        let name = format!("{}, as a chart", figure.title);
        view! { <div class="chart" role="img" aria-label=name>{figure.chart().view()}</div> }
    });
    (figure.name.clone(), picture)
}

/// The numbers of a chart, the newest first.
fn table(figure: &Figure) -> Part {
    let heads = figure
        .rows
        .iter()
        .map(|row| view! { <th scope="col" class="amount">{row.name.clone()}</th> });
    let row = |span: &Bucket| {
        let cells = figure
            .rows
            .iter()
            .map(|row| view! { <td class="amount">{row.measure.words(span)}</td> });
        view! { <tr><th scope="row">{figure.time(span)}</th>{cells.collect::<Vec<_>>()}</tr> }
    };
    let table = html(|| {
        view! {
            <div class="scroll">
                <table>
                    <caption>{figure.title.clone()}</caption>
                    <thead><tr><th scope="col">"From"</th>{heads.collect::<Vec<_>>()}</tr></thead>
                    <tbody>{figure.spans.iter().rev().map(row).collect::<Vec<_>>()}</tbody>
                </table>
            </div>
        }
    });
    (format!("{}-table", figure.name), table)
}
