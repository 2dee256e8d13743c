//! Draws numbers as SVG. The style sheet has the colours, by class.

use leptos::prelude::*;

/// The size of a chart in its own units. It is shown as large as there is room.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 220.0;

/// The room around the plot, for the axes' labels.
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 32.0;

/// About how many labels an axis has.
const TIMES: usize = 7;
const VALUES: f64 = 4.0;

/// The share of its step that a bar leaves free on each side.
const GAP: f64 = 0.1;

/// The classes of the series, in their order.
const CLASSES: [&str; 2] = ["first", "second"];

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Bars,
    Line,
}

/// One row of numbers.
#[derive(Clone, Debug)]
pub struct Series {
    pub shape: Shape,
    pub values: Vec<f64>,
}

/// Rows of numbers over the same steps of time, each step with its label.
#[derive(Clone, Debug)]
pub struct Chart {
    pub times: Vec<String>,
    pub series: Vec<Series>,
}

impl Chart {
    /// The chart as SVG: bars and lines, their axes, and no text but the axes' labels.
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
        let width = self.step_width() * (1.0 - 2.0 * GAP);
        let values = series.values.iter().enumerate();
        let bars = values
            .filter(|(_, value)| **value > 0.0)
            .map(|(step, value)| {
                let (x, y) = (self.x(place(step) + GAP), self.y(*value));
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
            .map(|(step, value)| {
                let (x, y) = (self.x(place(step) + 0.5), self.y(*value));
                format!("{},{}", coordinate(x), coordinate(y))
            })
            .collect();
        view! { <polyline class=format!("line {class}") points=points.join(" ")/> }
    }

    /// Horizontal lines with their values.
    fn value_axis(&self) -> impl IntoView + use<> {
        let step = round_step(self.highest() / VALUES).max(self.least_step());
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

    /// Labels of some of the steps.
    fn time_axis(&self) -> impl IntoView + use<> {
        let every = self.times.len().div_ceil(TIMES).max(1);
        let labels = self.times.iter().enumerate().step_by(every);
        let labels = labels.map(|(step, time)| {
            let x = coordinate(self.x(place(step) + 0.5));
            view! { <text class="time" x=x y=coordinate(HEIGHT - BOTTOM + 8.0)>{time.clone()}</text> }
        });
        labels.collect::<Vec<_>>()
    }

    /// The top of the chart: above the largest value, and never at the bottom.
    fn highest(&self) -> f64 {
        let values = self.series.iter().flat_map(|series| &series.values);
        let highest = values.copied().fold(0.0, f64::max);
        if highest > 0.0 { highest * 1.05 } else { 1.0 }
    }

    /// Between the labels of whole numbers stands a whole number.
    fn least_step(&self) -> f64 {
        let mut values = self.series.iter().flat_map(|series| &series.values);
        if values.all(|value| value.fract() == 0.0) {
            1.0
        } else {
            0.0
        }
    }

    fn step_width(&self) -> f64 {
        (WIDTH - LEFT - RIGHT) / place(self.times.len().max(1))
    }

    fn x(&self, step: f64) -> f64 {
        LEFT + step * self.step_width()
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - value / self.highest() * (HEIGHT - BOTTOM - TOP)
    }
}

/// The next 1, 2 or 5 times a power of ten.
fn round_step(least: f64) -> f64 {
    let power = 10_f64.powf(least.log10().floor());
    let steps = [1.0, 2.0, 5.0].map(|factor| factor * power);
    let step = steps.into_iter().find(|step| *step >= least);
    step.unwrap_or(10.0 * power)
}

/// A step's place on the axis of time.
#[expect(clippy::cast_precision_loss, reason = "a few dozen steps")]
fn place(step: usize) -> f64 {
    step as f64
}

fn coordinate(value: f64) -> String {
    format!("{value:.1}")
}

/// A value as an axis has room for it.
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

    /// The values of an attribute of these elements.
    fn attributes(svg: &str, element: &str, name: &str) -> Vec<f64> {
        let elements = svg.split('<').filter(|text| text.starts_with(element));
        let values = elements.filter_map(|text| {
            let value = text.split(&format!(" {name}=\"")).nth(1)?;
            value.split('"').next()?.parse().ok()
        });
        values.collect()
    }

    #[test]
    fn each_value_has_a_bar_as_high_as_it_is_large() {
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
    fn everything_is_inside_of_the_picture() {
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
    fn an_axis_of_whole_numbers_has_no_half() {
        assert!(!svg(&[1.0, 0.0]).contains("0.5"));
        assert!(svg(&[0.75, 0.0]).contains("0.2"));
    }

    #[test]
    fn an_axis_has_round_values_and_room_for_them() {
        let steps = [0.03, 0.2, 1.1, 2.6, 30.0, 60.0].map(round_step);
        assert_eq!(steps.map(number), ["0.05", "0.2", "2", "5", "50", "100"]);
        let shown = [0.0, 0.05, 0.5, 7.0, 250.0, 12_000.0, 2_500_000.0].map(number);
        assert_eq!(shown, ["0", "0.05", "0.5", "7", "250", "12 k", "2.5 M"]);
    }
}
