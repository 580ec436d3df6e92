//! How much of the time somebody on this machine waits for a processor, by the kernel's pressure
//! stall information (Documentation/accounting/psi.rst).

use std::fs;

const PLACE: &str = "/proc/pressure/cpu";

/// The share of the last ten seconds in which some task had to wait, 0 to 1. 0 where the kernel
/// doesn't tell.
pub fn of_processors() -> f64 {
    fs::read_to_string(PLACE).map_or(0.0, |text| read(&text).unwrap_or(0.0))
}

/// `some avg10=1.23 avg60=0.80 avg300=0.30 total=123456`, in percent.
fn read(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let mut fields = line.split_ascii_whitespace();
    let percent: f64 = fields
        .find_map(|field| field.strip_prefix("avg10="))?
        .parse()
        .ok()?;
    let share = percent / 100.0;
    share.is_finite().then(|| share.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_is_read_and_nonsense_is_none() {
        let text = "some avg10=96.94 avg60=97.93 avg300=98.62 total=26246089829\n\
                    full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";
        assert_eq!(read(text), Some(96.94 / 100.0));
        assert_eq!(read("some avg10=250.00 total=1"), Some(1.0));
        for text in [
            "",
            "some",
            "some avg10=",
            "some avg10=NaN",
            "full avg10=1.0",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
