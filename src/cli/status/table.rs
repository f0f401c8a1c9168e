//! Text in columns, and the units of what stands in them.

/// Columns as wide as what is in them; a short row's last cell runs on to the right.
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(head: &[&str]) -> Table {
        Table { rows: vec![head.iter().map(|&cell| cell.to_owned()).collect()] }
    }

    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub fn render(&self) -> String {
        let columns = self.rows[0].len();
        let whole = || self.rows.iter().filter(|row| row.len() == columns);
        let width = |column: usize| whole().map(|row| row[column].chars().count()).max().unwrap_or(0);
        // The first columns of short rows count too: only their last cell runs on.
        let short = |column: usize| {
            let cells = self.rows.iter().filter(|row| row.len() < columns && column + 1 < row.len());
            cells.map(|row| row[column].chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(|column| width(column).max(short(column))).collect();
        let mut text = String::new();
        for row in &self.rows {
            let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            text.push_str(cells.join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}

pub fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

pub fn bytes(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.1} GiB", bytes as f64 / 1_073_741_824.0),
    }
}

/// From microseconds.
pub fn latency(micros: u64) -> String {
    match micros {
        0..10_000 => format!("{:.2} ms", micros as f64 / 1000.0),
        10_000..1_000_000 => format!("{} ms", micros / 1000),
        _ => format!("{:.1} s", micros as f64 / 1_000_000.0),
    }
}

/// How often something happened in so many milliseconds, as a number a second.
pub fn rate(count: u64, over_ms: u64) -> String {
    if over_ms == 0 {
        return "?".to_owned();
    }
    let rate = count as f64 * 1000.0 / over_ms as f64;
    if rate < 10.0 { format!("{rate:.1}") } else { format!("{rate:.0}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_follow_the_size_of_a_number() {
        assert_eq!([span(59), span(61), span(3723), span(90_000)], ["59s", "1m01s", "1h02m", "1d01h"]);
        assert_eq!([bytes(1), bytes(2048), bytes(3 << 20), bytes(4 << 30)], ["1 B", "2.0 KiB", "3.0 MiB", "4.0 GiB"]);
        assert_eq!([latency(150), latency(25_000), latency(1_500_000)], ["0.15 ms", "25 ms", "1.5 s"]);
        assert_eq!([rate(3, 0), rate(25, 10_000), rate(1234, 10_000)], ["?", "2.5", "123"]);
    }
}
