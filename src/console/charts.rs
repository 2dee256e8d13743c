//! Draws numbers as SVG. The colours in it are those for light; the style sheet knows them by their
//! values and puts those for dark in their place.

use plotters::{
    backend::SVGBackend,
    chart::ChartBuilder,
    drawing::{DrawingAreaErrorKind, IntoDrawingArea},
    element::Rectangle,
    series::LineSeries,
    style::{Color, IntoFont, IntoTextStyle, RGBColor, TRANSPARENT},
};
use thiserror::Error;

/// The size of a chart in its own units; it is shown as large as there is room.
const SIZE: (u32, u32) = (640, 220);

/// console.css names these four.
const INK: RGBColor = RGBColor(0x59, 0x62, 0x6B);
const GRID: RGBColor = RGBColor(0xDE, 0xDA, 0xD0);
const COLOURS: [RGBColor; 2] = [RGBColor(0x0B, 0x6B, 0x57), RGBColor(0xB3, 0x5A, 0x00)];

/// So many labels an axis has, about.
const TIMES: usize = 7;
const VALUES: usize = 4;

/// The share of its step that a bar leaves free on each side.
const GAP: f64 = 0.1;

/// Why nothing was drawn.
#[derive(Debug, Error)]
#[error("a chart could not be drawn: {0}")]
pub struct ChartError(String);

impl<E: std::error::Error + Send + Sync> From<DrawingAreaErrorKind<E>> for ChartError {
    fn from(error: DrawingAreaErrorKind<E>) -> Self {
        Self(error.to_string())
    }
}

/// How a row of numbers is drawn.
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
    /// The chart as SVG: bars and lines, their axes, and no words but the axes' labels.
    ///
    /// # Errors
    /// When the library can't draw.
    pub fn svg(&self) -> Result<String, ChartError> {
        let mut svg = String::new();
        self.draw(SVGBackend::with_string(&mut svg, SIZE))?;
        Ok(svg)
    }

    fn draw(&self, backend: SVGBackend) -> Result<(), ChartError> {
        let area = backend.into_drawing_area();
        let (steps, highest) = (place(self.times.len().max(1)), self.highest());
        let mut chart = ChartBuilder::on(&area)
            .margin(6)
            .margin_top(12)
            .margin_right(16)
            .x_label_area_size(32)
            .y_label_area_size(64)
            .build_cartesian_2d(0.0..steps, 0.0..highest)?;
        let label = ("sans-serif", 20).into_font().color(&INK);
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(GRID)
            .label_style(label.into_text_style(&area))
            .x_labels(TIMES)
            .x_label_formatter(&|step| self.time(*step))
            .y_labels(VALUES)
            .y_label_formatter(&|value| number(*value))
            .draw()?;
        for (series, colour) in self.series.iter().zip(COLOURS.iter().cycle()) {
            let values = series.values.iter().copied().enumerate();
            match series.shape {
                Shape::Bars => {
                    let bar = |(step, value): (usize, f64)| {
                        let left = place(step);
                        let corners = [(left + GAP, 0.0), (left + 1.0 - GAP, value)];
                        Rectangle::new(corners, colour.filled())
                    };
                    chart.draw_series(values.filter(|(_, value)| *value > 0.0).map(bar))?;
                }
                Shape::Line => {
                    let points = values.map(|(step, value)| (place(step) + 0.5, value));
                    chart.draw_series(LineSeries::new(points, colour.stroke_width(2)))?;
                }
            }
        }
        area.present()?;
        Ok(())
    }

    /// The top of the chart: above the largest value, and never at the bottom.
    fn highest(&self) -> f64 {
        let values = self.series.iter().flat_map(|series| &series.values);
        let highest = values.copied().fold(0.0, f64::max);
        if highest > 0.0 { highest * 1.05 } else { 1.0 }
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a place on the axis, which begins at 0"
    )]
    fn time(&self, step: f64) -> String {
        let label = self.times.get(step.max(0.0) as usize);
        label.cloned().unwrap_or_default()
    }
}

/// A place on the axis of time.
#[expect(clippy::cast_precision_loss, reason = "a few dozen steps")]
fn place(step: usize) -> f64 {
    step as f64
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

    fn chart(values: &[f64]) -> Chart {
        Chart {
            times: values.iter().map(|value| format!("at {value}")).collect(),
            series: vec![
                Series {
                    shape: Shape::Bars,
                    values: values.to_vec(),
                },
                Series {
                    shape: Shape::Line,
                    values: values.to_vec(),
                },
            ],
        }
    }

    #[test]
    fn each_value_has_a_bar_and_the_largest_the_highest() {
        let svg = chart(&[1.0, 0.0, 4.0, 2.0]).svg().expect("a chart");
        let heights: Vec<u32> = svg
            .lines()
            .filter(|line| line.contains("<rect") && line.contains("#0B6B57"))
            .filter_map(|line| {
                line.split("height=\"")
                    .nth(1)?
                    .split('"')
                    .next()?
                    .parse()
                    .ok()
            })
            .collect();
        assert_eq!(heights.len(), 3, "{svg}");
        assert_eq!(heights.iter().max(), Some(&heights[1]));
        assert!(svg.contains("<polyline") && svg.contains("at 0"), "{svg}");
    }

    #[test]
    fn nothing_and_zeroes_are_charts_too() {
        assert!(chart(&[]).svg().is_ok());
        assert!(chart(&[0.0, 0.0]).svg().is_ok());
    }

    #[test]
    fn the_style_sheet_knows_every_colour() {
        let style = include_str!("../../style/console.css");
        for RGBColor(red, green, blue) in [INK, GRID, COLOURS[0], COLOURS[1]] {
            let colour = format!("#{red:02X}{green:02X}{blue:02X}");
            assert!(style.contains(&format!("=\"{colour}\"")), "{colour}");
        }
    }

    #[test]
    fn an_axis_has_room_for_its_numbers() {
        let shown = [0.0, 0.05, 0.5, 7.0, 250.0, 12_000.0, 2_500_000.0].map(number);
        assert_eq!(shown, ["0", "0.05", "0.5", "7", "250", "12 k", "2.5 M"]);
    }
}
