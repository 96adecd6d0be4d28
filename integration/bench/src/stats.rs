//! Medians and spreads.

use std::time::Duration;

/// The times of one program, sorted.
#[derive(Debug, Clone)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    pub(crate) fn new(mut times: Vec<Duration>) -> Times {
        times.sort_unstable();
        Times(times)
    }

    /// The middle one, in milliseconds.
    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The quickest, in milliseconds.
    pub(crate) fn least(&self) -> f64 {
        self.quantile(0.0)
    }

    /// The distance between the quartiles as a part of the median.
    pub(crate) fn spread(&self) -> f64 {
        (self.quantile(0.75) - self.quantile(0.25)) / self.median()
    }

    /// Between the two nearest in proportion.
    fn quantile(&self, part: f64) -> f64 {
        let place = part * self.0.len().saturating_sub(1) as f64;
        let at = |index: f64| self.0.get(index as usize).map_or(f64::NAN, Duration::as_secs_f64);
        let (below, above) = (at(place.floor()), at(place.ceil()));
        1000.0 * (below + (above - below) * place.fract())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_an_even_number_is_between_two() {
        let times =
            |list: &[u64]| Times::new(list.iter().copied().map(Duration::from_millis).collect());
        assert!((times(&[4, 1, 2, 3]).median() - 2.5).abs() < 1e-9);
        assert!((times(&[9, 1, 5]).median() - 5.0).abs() < 1e-9);
        assert!((times(&[1, 2, 3, 4, 5]).spread() - 2.0 / 3.0).abs() < 1e-9);
    }
}
