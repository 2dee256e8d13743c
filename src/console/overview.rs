//! The overview: what happened in the last hour, day and month, as pictures with their numbers.

use leptos::prelude::*;

use super::{
    charts::{Chart, ChartError, Series, Shape},
    document::{Page, html},
    live, words,
};
use crate::visitor::Sessions;
use tally_session::{
    SessionError, Statistics,
    store::{Bucket, Resolution},
};

/// What the overview shows.
#[derive(Debug)]
pub struct Overview {
    history: Statistics,
    /// `None`: the engine can't tell.
    alive: Option<u64>,
    store: String,
}

/// A part of the page that changes by itself: its name, and what is in it, as HTML.
pub type Part = (&'static str, String);

/// One chart: what it shows, of which steps, and how.
struct Figure {
    /// The names of the two parts.
    chart: &'static str,
    table: &'static str,
    title: &'static str,
    spans: Vec<Bucket>,
    step: Resolution,
    rows: Vec<Row>,
}

struct Row {
    name: &'static str,
    shape: Shape,
    measure: Measure,
}

/// What a row shows of a step.
enum Measure {
    Count(fn(&Bucket) -> u64),
    Milliseconds(fn(&Bucket) -> f64),
}

const VISITS: Row = Row::count("Visits", Shape::Bars, |span| span.counts.activity);
const VISITORS: Row = Row::count("Visitors", Shape::Line, |span| span.sessions.unwrap_or(0));
const CREATED: Row = Row::count("Created", Shape::Bars, |span| span.counts.created);
const ENDED: Row = Row::count("Ended", Shape::Line, |span| span.counts.ended);
const CONFLICTS: Row = Row::count("Conflicts", Shape::Bars, |span| span.counts.conflicts);
const LATENCY: Row = Row {
    name: "Milliseconds",
    shape: Shape::Bars,
    measure: Measure::Milliseconds(|span| span.counts.milliseconds()),
};

impl Row {
    const fn count(name: &'static str, shape: Shape, count: fn(&Bucket) -> u64) -> Self {
        let measure = Measure::Count(count);
        Self {
            name,
            shape,
            measure,
        }
    }

    /// The height on the chart.
    #[expect(clippy::cast_precision_loss, reason = "the height of a bar")]
    fn height(&self, span: &Bucket) -> f64 {
        match self.measure {
            Measure::Count(count) => count(span) as f64,
            Measure::Milliseconds(milliseconds) => milliseconds(span),
        }
    }

    /// The same in words, for the table.
    fn words(&self, span: &Bucket) -> String {
        match self.measure {
            Measure::Count(count) => words::number(count(span)),
            Measure::Milliseconds(milliseconds) => words::milliseconds(milliseconds(span)),
        }
    }
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
    pub async fn load(sessions: &Sessions, store: &str) -> Result<Self, SessionError> {
        Ok(Self {
            history: sessions.statistics().await?,
            alive: sessions.count().await?,
            store: store.to_owned(),
        })
    }

    /// The whole page.
    pub fn page(&self) -> Page {
        let (tiles, figures) = (self.tiles(), self.figures());
        let figures: Vec<_> = figures
            .into_iter()
            .map(|figure| {
                let (title, rows) = (figure.title, figure.rows.len());
                let key: Vec<_> = figure
                    .rows
                    .iter()
                    .enumerate()
                    .map(|(place, row)| key(place, row))
                    .collect();
                view! {
                    <figure>
                        <figcaption>{title} {(rows > 1).then(|| view! { <span class="keys">{key}</span> })}</figcaption>
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
                <div data-live=live::PATH>
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
                 start, and different visitors are not counted. Redis keeps both.",
                self.store
            ));
        }
        if self.alive.is_none() {
            texts.push(format!(
                "{} can't tell how many sessions are alive.",
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
        let number = |value: Option<u64>| value.map_or_else(unknown, words::number);
        let tile = |name: &'static str, value: String| view! { <div><dt>{name}</dt><dd>{value}</dd></div> };
        let tiles = view! {
            <dl class="tiles">
                {tile("sessions alive", number(self.alive))}
                {tile("visits this minute", number(minute.map(|span| span.counts.activity)))}
                {tile("visits today", number(today.map(|span| span.counts.activity)))}
                {tile("visitors today", number(today.and_then(|span| span.sessions)))}
                {tile("sessions created today", number(today.map(|span| span.counts.created)))}
                {tile("sessions ended today", number(today.map(|span| span.counts.ended)))}
                {tile("store, on average", latency.map_or_else(unknown, |span| format!("{} ms", words::milliseconds(span.counts.milliseconds()))))}
                {tile("conflicts in the last hour", words::number(conflicts))}
            </dl>
        };
        ("tiles", html(|| tiles))
    }

    fn figures(&self) -> Vec<Figure> {
        let lately = &self.history.history;
        let [hours, days] = if self.history.shared {
            [
                "Visits and visitors per hour",
                "Visits and visitors per day",
            ]
        } else {
            ["Visits per hour", "Visits per day"]
        };
        let with_visitors = || {
            if self.history.shared {
                vec![VISITS, VISITORS]
            } else {
                vec![VISITS]
            }
        };
        let figure = |[chart, table]: [&'static str; 2], title, step, rows| Figure {
            chart,
            table,
            title,
            spans: match step {
                Resolution::Minute => lately.minutes.clone(),
                Resolution::Hour => lately.hours.clone(),
                Resolution::Day => lately.days.clone(),
            },
            step,
            rows,
        };
        vec![
            figure(
                ["minutes", "minutes-table"],
                "Visits per minute",
                Resolution::Minute,
                vec![VISITS],
            ),
            figure(
                ["hours", "hours-table"],
                hours,
                Resolution::Hour,
                with_visitors(),
            ),
            figure(
                ["days", "days-table"],
                days,
                Resolution::Day,
                with_visitors(),
            ),
            figure(
                ["sessions", "sessions-table"],
                "Sessions created and ended per hour",
                Resolution::Hour,
                vec![CREATED, ENDED],
            ),
            figure(
                ["latency", "latency-table"],
                "The store’s time per operation, by minute",
                Resolution::Minute,
                vec![LATENCY],
            ),
            figure(
                ["conflicts", "conflicts-table"],
                "Conflicts between servers per minute",
                Resolution::Minute,
                vec![CONFLICTS],
            ),
        ]
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
    view! { <span class=format!("key{line}{second}")>{row.name}</span> }
}

impl Figure {
    fn time(&self, span: &Bucket) -> String {
        match self.step {
            Resolution::Minute | Resolution::Hour => words::clock(span.began),
            Resolution::Day => words::day(span.began),
        }
    }

    fn svg(&self) -> Result<String, ChartError> {
        let series = |row: &Row| Series {
            shape: row.shape,
            values: self.spans.iter().map(|span| row.height(span)).collect(),
        };
        Chart {
            times: self.spans.iter().map(|span| self.time(span)).collect(),
            series: self.rows.iter().map(series).collect(),
        }
        .svg()
    }
}

fn chart(figure: &Figure) -> Part {
    let svg = figure.svg().unwrap_or_else(|error| {
        tracing::warn!(%error, "the numbers stand below");
        String::new()
    });
    let picture = html(|| {
        view! { <div class="chart" role="img" aria-label=format!("{}, as a chart", figure.title) inner_html=svg></div> }
    });
    (figure.chart, picture)
}

/// The numbers of a chart, the newest first.
fn table(figure: &Figure) -> Part {
    let heads = figure
        .rows
        .iter()
        .map(|row| view! { <th scope="col" class="amount">{row.name}</th> });
    let row = |span: &Bucket| {
        let cells = figure
            .rows
            .iter()
            .map(|row| view! { <td class="amount">{row.words(span)}</td> });
        view! { <tr><th scope="row">{figure.time(span)}</th>{cells.collect::<Vec<_>>()}</tr> }
    };
    let table = html(|| {
        view! {
            <div class="scroll">
                <table>
                    <caption>{figure.title}</caption>
                    <thead><tr><th scope="col">"From"</th>{heads.collect::<Vec<_>>()}</tr></thead>
                    <tbody>{figure.spans.iter().rev().map(row).collect::<Vec<_>>()}</tbody>
                </table>
            </div>
        }
    });
    (figure.table, table)
}
