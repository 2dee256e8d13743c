//! The overview page: charts of the last hour, day and month, with tables of their numbers.

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

/// The data of the overview.
#[derive(Debug)]
pub struct Overview {
    statistics: Statistics,
    /// The number of sessions; `None` if the engine can't count them.
    alive: Option<u64>,
    /// The number of sign-ins of users; `None` if the engine can't count them.
    sign_ins: Option<u64>,
    /// Whether a change reaches the open pages of other servers.
    notifies_servers: bool,
    store: String,
}

/// A part of the page that is updated while the page is open: its name and its HTML.
pub type Part = (String, String);

/// A chart and the table of its numbers.
struct Figure {
    /// The name of the chart's part. The part of the table has the suffix `-table`.
    name: String,
    title: String,
    buckets: Vec<Bucket>,
    resolution: Resolution,
    metrics: Vec<Metric>,
}

/// One series of a chart, and one column of its table.
#[derive(Clone)]
struct Metric {
    name: String,
    shape: Shape,
    value: MetricValue,
}

/// The value that a metric takes from a bucket.
#[derive(Clone, Copy)]
enum MetricValue {
    Count(fn(&Bucket) -> u64),
    /// The application's counter with this index.
    Counter(usize),
    /// The store's average latency.
    Milliseconds,
}

impl MetricValue {
    /// The value as plotted.
    #[expect(clippy::cast_precision_loss, reason = "the height of a bar")]
    fn height(self, bucket: &Bucket) -> f64 {
        match self {
            Self::Count(_) | Self::Counter(_) => self.count(bucket) as f64,
            Self::Milliseconds => bucket.counts.milliseconds(),
        }
    }

    /// The value as text, for the table.
    fn text(self, bucket: &Bucket) -> String {
        match self {
            Self::Count(_) | Self::Counter(_) => format::number(self.count(bucket)),
            Self::Milliseconds => format::milliseconds(bucket.counts.milliseconds()),
        }
    }

    fn count(self, bucket: &Bucket) -> u64 {
        match self {
            Self::Count(count) => count(bucket),
            Self::Counter(index) => bucket.counts.counters.get(index).copied().unwrap_or(0),
            Self::Milliseconds => 0,
        }
    }
}

fn metric(name: &str, shape: Shape, value: MetricValue) -> Metric {
    let name = name.to_owned();
    Metric { name, shape, value }
}

fn count(name: &str, shape: Shape, count: fn(&Bucket) -> u64) -> Metric {
    metric(name, shape, MetricValue::Count(count))
}

/// Active sessions are those that were written within a bucket.
fn active() -> Metric {
    count("Active sessions", Shape::Line, |bucket| {
        bucket.active.unwrap_or(0)
    })
}

/// Capitalizes the first letter of a name.
fn capitalized(name: &str) -> String {
    let mut letters = name.chars();
    let first = letters.next().into_iter().flat_map(char::to_uppercase);
    first.chain(letters).collect()
}

/// Renders a part, for the page and for the stream.
pub fn part((name, html): Part) -> impl IntoView {
    view! { <div data-part=name inner_html=html></div> }
}

impl Overview {
    /// Loads the current data.
    ///
    /// # Errors
    /// Returns an error if the store fails.
    pub async fn load<S: SessionState>(
        sessions: &SessionManager<S>,
        store: &str,
    ) -> Result<Self, SessionError> {
        Ok(Self {
            statistics: sessions.statistics().await?,
            alive: sessions.count().await?,
            sign_ins: sessions.count_sign_ins().await?,
            notifies_servers: sessions.notifies_servers(),
            store: store.to_owned(),
        })
    }

    /// Renders the page.
    pub fn page(&self, mount: &Mount) -> Page {
        let (tiles, figures) = (self.tiles(), self.figures());
        let figures: Vec<_> = figures
            .into_iter()
            .map(|figure| {
                let (title, metrics) = (figure.title.clone(), figure.metrics.len());
                let key: Vec<_> = figure
                    .metrics
                    .iter()
                    .enumerate()
                    .map(|(index, metric)| key(index, metric))
                    .collect();
                view! {
                    <figure>
                        <figcaption>{title.clone()} {(metrics > 1).then(|| view! { <span class="keys">{key}</span> })}</figcaption>
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
                    {self.limitations().into_iter().map(|text| view! { <p class="soft">{text}</p> }).collect::<Vec<_>>()}
                    <div class="charts">{figures}</div>
                </div>
            }
        });
        Page::new("Overview", body)
    }

    /// Renders all parts.
    pub fn parts(&self) -> Vec<Part> {
        let mut parts = vec![self.tiles()];
        for figure in self.figures() {
            parts.push(chart(&figure));
            parts.push(table(&figure));
        }
        parts
    }

    /// Sentences about what this engine does not support.
    fn limitations(&self) -> Vec<String> {
        let mut texts = Vec::new();
        if !self.statistics.shared {
            texts.push(format!(
                "{} keeps no counts. The numbers on this page are those of this server since its start, and active \
                 sessions are not counted. Redis, PostgreSQL and SQLite keep both.",
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
        let history = &self.statistics.history;
        let (minute, today) = (history.minutes.last(), history.days.last());
        let last_hour = history.minutes.iter();
        let conflicts = last_hour.map(|bucket| bucket.counts.conflicts).sum::<u64>();
        let latency = history
            .minutes
            .iter()
            .rev()
            .find(|bucket| bucket.counts.operations > 0);
        let unknown = || "unknown".to_owned();
        let number = |value: Option<u64>| value.map_or_else(unknown, format::number);
        let tile =
            |name: String, value: String| view! { <div><dt>{name}</dt><dd>{value}</dd></div> };
        let counters = self.counters().into_iter().flat_map(|metric| {
            let (name, value) = (metric.name.to_lowercase(), metric.value);
            let count = |bucket: Option<&Bucket>| number(bucket.map(|bucket| value.count(bucket)));
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
                {tile("active sessions today", number(today.and_then(|bucket| bucket.active)))}
                {tile("sessions created today", number(today.map(|bucket| bucket.counts.created)))}
                {tile("sessions ended today", number(today.map(|bucket| bucket.counts.ended)))}
                {tile("average store latency", latency.map_or_else(unknown, |bucket| format!("{} ms", format::milliseconds(bucket.counts.milliseconds()))))}
                {tile("conflicts in the last hour", format::number(conflicts))}
            </dl>
        };
        ("tiles".to_owned(), html(|| tiles))
    }

    /// The application's own counters, or the number of changes saved if it has none.
    fn counters(&self) -> Vec<Metric> {
        let named = |(index, name): (usize, &&str)| {
            metric(&capitalized(name), Shape::Bars, MetricValue::Counter(index))
        };
        let counters: Vec<Metric> = self
            .statistics
            .counters
            .iter()
            .enumerate()
            .map(named)
            .collect();
        if counters.is_empty() {
            vec![count("Changes saved", Shape::Bars, |bucket| {
                bucket.counts.changes
            })]
        } else {
            counters
        }
    }

    fn figures(&self) -> Vec<Figure> {
        let (minute, hour, day) = (Resolution::Minute, Resolution::Hour, Resolution::Day);
        let mut figures = Vec::new();
        for (index, counter) in self.counters().into_iter().enumerate() {
            let title = |unit: &str| match unit {
                "minute" => format!("{} per minute", counter.name),
                _ if !self.statistics.shared => format!("{} per {unit}", counter.name),
                _ => format!("{} and active sessions per {unit}", counter.name),
            };
            let with_active = || {
                let active = self.statistics.shared.then(active);
                [counter.clone()].into_iter().chain(active).collect()
            };
            let name = |units: &str| format!("counter-{index}-{units}");
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
        let created = count("Created", Shape::Bars, |bucket| bucket.counts.created);
        let ended = count("Ended", Shape::Line, |bucket| bucket.counts.ended);
        let changes = count("Changes", Shape::Bars, |bucket| bucket.counts.changes);
        let latency = metric("Milliseconds", Shape::Bars, MetricValue::Milliseconds);
        let conflicts = count("Conflicts", Shape::Bars, |bucket| bucket.counts.conflicts);
        for (name, title, resolution, metrics) in [
            (
                "sessions",
                "Sessions created and ended per hour",
                hour,
                vec![created, ended],
            ),
            ("changes", "Changes saved per hour", hour, vec![changes]),
            (
                "latency",
                "Average store latency per minute",
                minute,
                vec![latency],
            ),
            (
                "conflicts",
                "Conflicts between servers per minute",
                minute,
                vec![conflicts],
            ),
        ] {
            figures.push(self.figure(name.to_owned(), title.to_owned(), resolution, metrics));
        }
        figures
    }

    fn figure(
        &self,
        name: String,
        title: String,
        resolution: Resolution,
        metrics: Vec<Metric>,
    ) -> Figure {
        let history = &self.statistics.history;
        let buckets = match resolution {
            Resolution::Minute => &history.minutes,
            Resolution::Hour => &history.hours,
            Resolution::Day => &history.days,
        };
        Figure {
            name,
            title,
            buckets: buckets.clone(),
            resolution,
            metrics,
        }
    }
}

/// The legend entry of a metric.
fn key(index: usize, metric: &Metric) -> impl IntoView + use<> {
    let line = if metric.shape == Shape::Line {
        " line"
    } else {
        ""
    };
    let second = if index > 0 { " second" } else { "" };
    view! { <span class=format!("key{line}{second}")>{metric.name.clone()}</span> }
}

impl Figure {
    /// The label of a bucket.
    fn time(&self, bucket: &Bucket) -> String {
        match self.resolution {
            Resolution::Minute | Resolution::Hour => format::clock(bucket.started_at),
            Resolution::Day => format::day(bucket.started_at),
        }
    }

    fn chart(&self) -> Chart {
        let series = |metric: &Metric| Series {
            shape: metric.shape,
            values: self
                .buckets
                .iter()
                .map(|bucket| metric.value.height(bucket))
                .collect(),
        };
        Chart {
            times: self
                .buckets
                .iter()
                .map(|bucket| self.time(bucket))
                .collect(),
            series: self.metrics.iter().map(series).collect(),
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

/// The table of a chart's numbers, newest first.
fn table(figure: &Figure) -> Part {
    let heads = figure
        .metrics
        .iter()
        .map(|metric| view! { <th scope="col" class="amount">{metric.name.clone()}</th> });
    let row = |bucket: &Bucket| {
        let cells = figure
            .metrics
            .iter()
            .map(|metric| view! { <td class="amount">{metric.value.text(bucket)}</td> });
        view! { <tr><th scope="row">{figure.time(bucket)}</th>{cells.collect::<Vec<_>>()}</tr> }
    };
    let table = html(|| {
        view! {
            <div class="scroll">
                <table>
                    <caption>{figure.title.clone()}</caption>
                    <thead><tr><th scope="col">"From"</th>{heads.collect::<Vec<_>>()}</tr></thead>
                    <tbody>{figure.buckets.iter().rev().map(row).collect::<Vec<_>>()}</tbody>
                </table>
            </div>
        }
    });
    (format!("{}-table", figure.name), table)
}
