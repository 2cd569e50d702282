//! Where the table is shown: redrawn in place on a terminal, else printed once for each round.

use std::io::{self, Write as _};

use anyhow::Result;
use crossterm::{
    cursor, queue,
    style::Print,
    terminal::{self, Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen},
};

use super::board::Board;

/// The output of a run.
pub(super) struct Screen {
    live: bool,
    json: bool,
    above: String,
}

impl Screen {
    /// A live screen keeps the terminal's own content and gives it back at the end.
    pub(super) fn open(live: bool, json: bool) -> Result<Self> {
        if live {
            let mut out = io::stdout().lock();
            queue!(out, EnterAlternateScreen, cursor::Hide)?;
            out.flush()?;
        }
        Ok(Self { live, json, above: String::new() })
    }

    /// Text that stays: above the table on a live screen, else printed once. JSON output is kept free of it.
    pub(super) fn say(&mut self, text: &str) {
        if self.json {
            eprintln!("{text}");
        } else if self.live {
            text.clone_into(&mut self.above);
        } else {
            println!("{text}");
        }
    }

    /// Shows the board as it is now.
    pub(super) fn show(&self, board: &Board) -> Result<()> {
        if self.json {
            println!("{}", board.json());
            return Ok(());
        }
        if !self.live {
            println!("{}", board.text(None));
            return Ok(());
        }
        let (width, height) = terminal::size()?;
        let text = format!("{}\n{}", self.above, board.text(Some(width)));
        let mut out = io::stdout().lock();
        queue!(out, cursor::MoveTo(0, 0))?;
        for line in fit(&text, width.into(), height.into()) {
            queue!(out, Print(line), Clear(ClearType::UntilNewLine), cursor::MoveToNextLine(1))?;
        }
        queue!(out, Clear(ClearType::FromCursorDown))?;
        out.flush()?;
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.live {
            let mut out = io::stdout().lock();
            // The terminal may be gone; there is nobody to tell.
            drop(queue!(out, cursor::Show, LeaveAlternateScreen).and_then(|()| out.flush()));
        }
    }
}

/// The lines that a terminal of this size has room for. What does not fit is left out in the middle: the
/// verdict and the messages are at the end.
fn fit(text: &str, width: usize, height: usize) -> Vec<String> {
    let lines: Vec<String> = text.lines().map(|line| line.chars().take(width).collect()).collect();
    let room = height.saturating_sub(1);
    if lines.len() <= room {
        return lines;
    }
    let end = (room / 2).min(12);
    let start = room.saturating_sub(end + 1);
    let left_out = lines.len() - start - end;
    let mut fitted: Vec<String> = lines.iter().take(start).cloned().collect();
    fitted.push(format!("... {left_out} lines more; a higher terminal shows them"));
    fitted.extend(lines.into_iter().skip(start + left_out));
    fitted
}

#[cfg(test)]
mod tests {
    use super::fit;

    #[test]
    fn a_text_that_is_too_long_loses_its_middle() {
        let lines: Vec<String> = (0..50).map(|number| format!("line {number}")).collect();
        let text = lines.join("\n");
        let fitted = fit(&text, 6, 21);
        assert_eq!(fitted.len(), 20);
        assert_eq!(fitted.first().map(String::as_str), Some("line 0"));
        assert_eq!(fitted.last().map(String::as_str), Some("line 4"));
        assert!(fitted.iter().any(|line| line.starts_with("... 31 lines")));
    }

    #[test]
    fn a_text_that_fits_stays() {
        assert_eq!(fit("a\nb\n", 80, 24), ["a", "b"]);
    }
}
