//! Bar charts as SVG.
//!
//! Each bar has its label before it and its value behind it; a line shows the quartiles. There is no background and no
//! font of our own, and colours follow the reader's theme, so that a chart looks the same in a browser and in a page.

use std::fmt::Write as _;

/// A bar.
pub(super) struct Bar {
    pub(super) label: String,
    pub(super) value: f64,
    /// The quartiles.
    pub(super) quartiles: [f64; 2],
    /// Whether it is svclb's: these stand out.
    pub(super) ours: bool,
}

/// Bars with one axis, in groups that have a heading each.
pub(super) struct Chart {
    pub(super) title: String,
    /// What the axis shows, with its unit, and which way is better.
    pub(super) axis: String,
    pub(super) groups: Vec<(String, Vec<Bar>)>,
}

const WIDTH: f64 = 760.0;
/// Where bars begin, and the longest one ends.
const LEFT: f64 = 220.0;
const RIGHT: f64 = 680.0;
const TOP: f64 = 44.0;
const BAR: f64 = 18.0;
const STEP: f64 = 26.0;
const HEADING: f64 = 26.0;
const AXIS: f64 = 46.0;

const STYLE: &str = "
  text { font: 13px system-ui, sans-serif; fill: #24292f; }
  .title { font-size: 16px; font-weight: 600; }
  .group { font-weight: 600; }
  .quiet { fill: #57606a; font-size: 12px; }
  .grid { stroke: #d0d7de; }
  .ours { fill: #d9480f; }
  .other { fill: #8c959f; }
  .spread { stroke: #24292f; stroke-width: 1.5; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .quiet { fill: #9198a1; }
    .grid { stroke: #3d444d; }
    .ours { fill: #ff8a4c; }
    .other { fill: #767e88; }
    .spread { stroke: #e6edf3; }
  }
";

impl Chart {
    /// Whether there is anything to show.
    pub(super) fn is_empty(&self) -> bool {
        self.groups.iter().all(|(_, bars)| bars.is_empty())
    }

    /// The picture.
    pub(super) fn svg(&self) -> String {
        let bars = || self.groups.iter().flat_map(|(_, bars)| bars);
        let largest = bars().map(|bar| bar.value.max(bar.quartiles[1])).fold(0.0, f64::max);
        let step = nice_step(largest);
        let end = (largest / step).ceil() * step;
        let at = |value: f64| LEFT + (RIGHT - LEFT) * value / end;
        let headings: f64 = self.groups.iter().map(|(name, _)| if name.is_empty() { 0.0 } else { HEADING }).sum();
        let bottom = TOP + headings + STEP * bars().map(|_| 1.0).sum::<f64>();
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"{}\">\n\
             <style>{STYLE}</style>\n<text class=\"title\" x=\"8\" y=\"24\">{}</text>\n",
            bottom + AXIS,
            escaped(&self.title),
            escaped(&self.title)
        );
        let mut line = |text: std::fmt::Arguments<'_>| writeln!(svg, "{text}").expect("a String takes everything");
        let mut tick = 0.0;
        while tick <= end + step / 2.0 {
            let x = at(tick);
            line(format_args!("<line class=\"grid\" x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{bottom}\"/>"));
            let y = bottom + 16.0;
            line(format_args!(
                "<text class=\"quiet\" x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{}</text>",
                number(tick, step)
            ));
            tick += step;
        }
        line(format_args!("<text class=\"quiet\" x=\"{LEFT}\" y=\"{}\">{}</text>", bottom + 36.0, escaped(&self.axis)));
        let mut y = TOP;
        for (name, bars) in &self.groups {
            if !name.is_empty() {
                line(format_args!("<text class=\"group\" x=\"8\" y=\"{}\">{}</text>", y + 18.0, escaped(name)));
                y += HEADING;
            }
            for bar in bars {
                let (class, end, base) = (if bar.ours { "ours" } else { "other" }, at(bar.value), y + 14.0);
                let label = escaped(&bar.label);
                line(format_args!("<text x=\"{}\" y=\"{base}\" text-anchor=\"end\">{label}</text>", LEFT - 8.0));
                let length = end - LEFT;
                line(format_args!(
                    "<rect class=\"{class}\" x=\"{LEFT}\" y=\"{y}\" width=\"{length:.1}\" height=\"{BAR}\" rx=\"2\"/>"
                ));
                let ([low, high], middle) = (bar.quartiles.map(at), y + BAR / 2.0);
                line(format_args!(
                    "<line class=\"spread\" x1=\"{low:.1}\" y1=\"{middle}\" x2=\"{high:.1}\" y2=\"{middle}\"/>"
                ));
                let value = number(bar.value, bar.value / 100.0);
                line(format_args!("<text x=\"{:.1}\" y=\"{base}\">{value}</text>", end.max(high) + 6.0));
                y += STEP;
            }
        }
        svg.push_str("</svg>\n");
        svg
    }
}

/// The distance of ticks, 1, 2 or 5 times a power of ten, with which there are four to ten of them.
fn nice_step(largest: f64) -> f64 {
    let rough = (largest / 5.0).max(f64::MIN_POSITIVE);
    let power = 10_f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= rough).unwrap_or(power)
}

/// A number with as many digits as differences of `step` need.
fn number(value: f64, step: f64) -> String {
    let digits = match step {
        step if step >= 1.0 => 0,
        step if step >= 0.1 => 1,
        step if step >= 0.01 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(value: f64) -> Chart {
        let bar = Bar { label: "a & b".to_owned(), value, quartiles: [value * 0.9, value * 1.1], ours: true };
        Chart { title: "<t>".to_owned(), axis: "us".to_owned(), groups: vec![(String::new(), vec![bar])] }
    }

    #[test]
    fn a_bar_is_as_long_as_its_value_and_no_text_breaks_the_picture() {
        let svg = chart(8.0).svg();
        // The axis goes to 10: 8.8 is the largest, with a tick at every 2.
        assert!(svg.contains("width=\"368.0\""), "{svg}");
        assert!(svg.contains(">a &amp; b<") && svg.contains("&lt;t&gt;") && !svg.contains("<t>"), "{svg}");
        assert_eq!(svg.matches("class=\"grid\"").count(), 6, "{svg}");
    }

    #[test]
    fn ticks_are_at_round_numbers() {
        for (largest, step) in [(8.8, "2"), (1.04, "0.5"), (61.0, "20"), (1_900.0, "500")] {
            assert_eq!(nice_step(largest).to_string(), step, "{largest}");
        }
        assert_eq!((number(1234.5, 12.0), number(0.957, 0.009_57)), ("1234".to_owned(), "0.957".to_owned()));
    }
}
