//! Charts as SVG. The style sheet sets their colours by class.

use leptos::prelude::*;

// The size of a chart in user units. The page scales it to the available width.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 220.0;

// The margins around the plot, which hold the axis labels.
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 32.0;

/// The approximate number of labels on the time axis.
const TIME_LABELS: usize = 7;

/// The approximate number of labels on the value axis.
const VALUE_LABELS: f64 = 4.0;

/// The gap on each side of a bar, as a fraction of the width of its bucket.
const GAP: f64 = 0.1;

/// The CSS classes of the first and the second series.
const CLASSES: [&str; 2] = ["first", "second"];

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Bars,
    Line,
}

/// The values of one series, one for each bucket of time.
#[derive(Clone, Debug)]
pub struct Series {
    pub shape: Shape,
    pub values: Vec<f64>,
}

/// One or more series over the same buckets of time.
#[derive(Clone, Debug)]
pub struct Chart {
    /// The label of each bucket.
    pub times: Vec<String>,
    pub series: Vec<Series>,
}

impl Chart {
    /// Renders the chart as SVG. Its only text is the axis labels.
    pub fn view(&self) -> impl IntoView + use<> {
        let series = self.series.iter().zip(CLASSES.iter().cycle());
        let series: Vec<_> = series
            .map(|(series, class)| match series.shape {
                Shape::Bars => self.bars(series, class).into_any(),
                Shape::Line => self.line(series, class).into_any(),
            })
            .collect();
        view! {
            <svg viewBox=format!("0 0 {WIDTH} {HEIGHT}")>
                {self.value_axis()}
                {self.time_axis()}
                {series}
            </svg>
        }
    }

    fn bars(&self, series: &Series, class: &str) -> impl IntoView + use<> {
        let width = self.bucket_width() * (1.0 - 2.0 * GAP);
        let values = series.values.iter().enumerate();
        let bars = values
            .filter(|(_, value)| **value > 0.0)
            .map(|(bucket, value)| {
                let (x, y) = (self.x(position(bucket) + GAP), self.y(*value));
                view! {
                    <rect
                        class=format!("bar {class}")
                        x=coordinate(x)
                        y=coordinate(y)
                        width=coordinate(width)
                        height=coordinate(HEIGHT - BOTTOM - y)
                    />
                }
            });
        bars.collect::<Vec<_>>()
    }

    fn line(&self, series: &Series, class: &str) -> impl IntoView + use<> {
        let values = series.values.iter().enumerate();
        let points: Vec<String> = values
            .map(|(bucket, value)| {
                let (x, y) = (self.x(position(bucket) + 0.5), self.y(*value));
                format!("{},{}", coordinate(x), coordinate(y))
            })
            .collect();
        view! { <polyline class=format!("line {class}") points=points.join(" ")/> }
    }

    /// Horizontal grid lines with their values.
    fn value_axis(&self) -> impl IntoView + use<> {
        let step = round_step(self.highest() / VALUE_LABELS).max(self.min_step());
        let ticks = (0_u8..).map(|tick| f64::from(tick) * step);
        let lines = ticks.take_while(|value| *value <= self.highest()).map(|value| {
            let y = coordinate(self.y(value));
            view! {
                <line class="grid" x1=coordinate(LEFT) x2=coordinate(WIDTH - RIGHT) y1=y.clone() y2=y.clone()/>
                <text class="value" x=coordinate(LEFT - 8.0) y=y>{number(value)}</text>
            }
        });
        lines.collect::<Vec<_>>()
    }

    /// Labels of evenly spaced buckets.
    fn time_axis(&self) -> impl IntoView + use<> {
        let every = self.times.len().div_ceil(TIME_LABELS).max(1);
        let labels = self.times.iter().enumerate().step_by(every);
        let labels = labels.map(|(bucket, time)| {
            let x = coordinate(self.x(position(bucket) + 0.5));
            view! { <text class="time" x=x y=coordinate(HEIGHT - BOTTOM + 8.0)>{time.clone()}</text> }
        });
        labels.collect::<Vec<_>>()
    }

    /// The value at the top of the chart: just above the largest value, and never zero.
    fn highest(&self) -> f64 {
        let values = self.series.iter().flat_map(|series| &series.values);
        let highest = values.copied().fold(0.0, f64::max);
        if highest > 0.0 { highest * 1.05 } else { 1.0 }
    }

    /// The minimum distance between two value labels: if all values are whole numbers, so are the labels.
    fn min_step(&self) -> f64 {
        let mut values = self.series.iter().flat_map(|series| &series.values);
        if values.all(|value| value.fract() == 0.0) {
            1.0
        } else {
            0.0
        }
    }

    fn bucket_width(&self) -> f64 {
        (WIDTH - LEFT - RIGHT) / position(self.times.len().max(1))
    }

    fn x(&self, position: f64) -> f64 {
        LEFT + position * self.bucket_width()
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - value / self.highest() * (HEIGHT - BOTTOM - TOP)
    }
}

/// Rounds up to 1, 2 or 5 times a power of ten.
fn round_step(min: f64) -> f64 {
    let power = 10_f64.powf(min.log10().floor());
    let steps = [1.0, 2.0, 5.0].map(|factor| factor * power);
    let step = steps.into_iter().find(|step| *step >= min);
    step.unwrap_or(10.0 * power)
}

/// The position of a bucket on the time axis, in bucket widths.
#[expect(
    clippy::cast_precision_loss,
    reason = "a chart has a few dozen buckets"
)]
fn position(bucket: usize) -> f64 {
    bucket as f64
}

fn coordinate(value: f64) -> String {
    format!("{value:.1}")
}

/// Formats a value so that it fits next to the axis.
fn number(value: f64) -> String {
    let (scaled, unit) = match value {
        value if value >= 1e6 => (value / 1e6, " M"),
        value if value >= 1e4 => (value / 1e3, " k"),
        value => (value, ""),
    };
    let digits = usize::from(scaled < 10.0 && scaled.fract() != 0.0)
        + usize::from(scaled < 0.1 && scaled > 0.0);
    format!("{scaled:.digits$}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::html;

    fn svg(values: &[f64]) -> String {
        let series = |shape| Series {
            shape,
            values: values.to_vec(),
        };
        let chart = Chart {
            times: values.iter().map(|value| format!("at {value}")).collect(),
            series: vec![series(Shape::Bars), series(Shape::Line)],
        };
        html(|| chart.view())
    }

    /// The values of an attribute on all elements whose name starts with `element`.
    fn attributes(svg: &str, element: &str, name: &str) -> Vec<f64> {
        let elements = svg.split('<').filter(|text| text.starts_with(element));
        let values = elements.filter_map(|text| {
            let value = text.split(&format!(" {name}=\"")).nth(1)?;
            value.split('"').next()?.parse().ok()
        });
        values.collect()
    }

    #[test]
    fn the_height_of_a_bar_is_proportional_to_its_value() {
        let svg = svg(&[1.0, 0.0, 4.0, 2.0]);
        let heights = attributes(&svg, "rect", "height");
        assert_eq!(heights.len(), 3, "{svg}");
        assert!((heights[1] / heights[0] - 4.0).abs() < 0.05, "{heights:?}");
        assert!((heights[1] / heights[2] - 2.0).abs() < 0.05, "{heights:?}");
        assert!(svg.contains(r#"class="bar first""#), "{svg}");
        assert!(svg.contains(r#"class="line second""#), "{svg}");
        assert!(svg.contains(">at 0<"), "{svg}");
    }

    #[test]
    fn everything_is_inside_the_view_box() {
        for values in [&[][..], &[0.0, 0.0], &[0.004, 0.001], &[1e9, 3.0]] {
            let svg = svg(values);
            for y in ["y", "y1", "y2"]
                .map(|name| attributes(&svg, "", name))
                .concat()
            {
                assert!((0.0..=HEIGHT).contains(&y), "{svg}");
            }
            let values = svg.matches(r#"class="value""#).count();
            assert!((2..=6).contains(&values), "{svg}");
        }
    }

    #[test]
    fn labels_between_whole_numbers_are_whole() {
        assert!(!svg(&[1.0, 0.0]).contains("0.5"));
        assert!(svg(&[0.75, 0.0]).contains("0.2"));
    }

    #[test]
    fn labels_are_round_and_short() {
        let steps = [0.03, 0.2, 1.1, 2.6, 30.0, 60.0].map(round_step);
        assert_eq!(steps.map(number), ["0.05", "0.2", "2", "5", "50", "100"]);
        let shown = [0.0, 0.05, 0.5, 7.0, 250.0, 12_000.0, 2_500_000.0].map(number);
        assert_eq!(shown, ["0", "0.05", "0.5", "7", "250", "12 k", "2.5 M"]);
    }
}
