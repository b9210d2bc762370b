//! Two pictures of the figures: throughput over the size of a message, and the time of a request.

use std::path::Path;

use plotters::prelude::*;

use crate::Result;
use crate::table::{Line, Report};
use crate::work::Kind;

const SIZE: (u32, u32) = (900, 520);
/// Told apart by people who see colours differently, too (Okabe and Ito).
const COLOURS: [RGBColor; 8] = [
    RGBColor(213, 94, 0),
    RGBColor(120, 120, 120),
    RGBColor(0, 114, 178),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(90, 60, 30),
];

/// Draws `one-way.svg` and `ask.svg` into `dir`, as far as there are figures for them.
pub fn draw(dir: &Path, report: &Report) -> Result<()> {
    one_way(&dir.join("one-way.svg"), report)?;
    ask(&dir.join("ask.svg"), report)
}

fn one_way(file: &Path, report: &Report) -> Result<()> {
    let lines: Vec<&Line> = report.rows.iter().filter(|line| line.work.kind == Kind::OneWay).collect();
    if lines.len() < 2 {
        return Ok(());
    }
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in lines.iter().flat_map(|line| &line.systems) {
        // Those of one size are points, not lines.
        if !names.contains(&name.as_str()) && lines.iter().filter(|line| line.of(name).is_some()).count() > 1
        {
            names.push(name);
        }
    }
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption("One way, two processes, TCP loopback", ("sans-serif", 22))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(72)
        .build_cartesian_2d((10.0..400_000.0).log_scale(), (3e3..4e8).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("bytes of a message")
        .y_desc("messages a second")
        .x_label_formatter(&|bytes| format!("{bytes:.0}"))
        .y_label_formatter(&|rate| crate::table::show(*rate))
        .light_line_style(WHITE)
        .draw()?;
    for (name, colour) in names.iter().zip(COLOURS.iter().cycle()) {
        let points: Vec<_> =
            lines.iter().filter_map(|line| Some((line.work.size as f64, line.of(name)?.median()))).collect();
        let style = ShapeStyle::from(colour).stroke_width(if *name == "ripstop" { 4 } else { 2 });
        chart
            .draw_series(LineSeries::new(points.clone(), style))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
        chart.draw_series(points.into_iter().map(|point| Circle::new(point, 3, style.filled())))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.9))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    Ok(root.present()?)
}

fn ask(file: &Path, report: &Report) -> Result<()> {
    let line = report.rows.iter().find(|line| line.work.kind == Kind::Ask && line.work.pinned);
    let Some(line) = line.filter(|line| line.systems.len() > 1) else { return Ok(()) };
    let mut bars: Vec<_> = line
        .systems
        .iter()
        .filter_map(|(name, _)| Some((name.as_str(), line.of(name)?.median())))
        .filter(|(_, took)| took.is_finite())
        .collect();
    bars.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    let most = bars.first().map_or(1.0, |(_, took)| *took) * 1.15;
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let count = bars.len() as f64;
    let mut chart = ChartBuilder::on(&root)
        .caption("One request of 64 bytes in flight, both processes on one core, p50", ("sans-serif", 22))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(16)
        .build_cartesian_2d(0.0..most, 0.0..count)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .x_desc("microseconds")
        .light_line_style(WHITE)
        .draw()?;
    chart.draw_series(bars.iter().enumerate().map(|(n, (name, took))| {
        let (colour, n) = (colour_of(name), n as f64);
        Rectangle::new([(0.0, n + 0.15), (*took, n + 0.85)], colour.filled())
    }))?;
    chart.draw_series(bars.iter().enumerate().map(|(n, (name, took))| {
        let at = (*took + most * 0.005, n as f64 + 0.62);
        Text::new(format!("{name}  {took:.1}"), at, ("sans-serif", 16))
    }))?;
    Ok(root.present()?)
}

fn colour_of(name: &str) -> RGBColor {
    match name {
        "floor" => COLOURS[1],
        name if name.starts_with("ripstop") => COLOURS[0],
        _ => COLOURS[2],
    }
}
