//! Figures of several runs, and how they are shown.

use std::fmt;

/// One figure a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Figures(pub(crate) Vec<f64>);

impl Figures {
    /// Run by run, these divided by those; none where a run is missing or the divisor is 0.
    pub(crate) fn over(&self, base: &Self) -> Option<Self> {
        let whole = self.0.len() == base.0.len() && !base.0.contains(&0.0);
        whole.then(|| Self(self.0.iter().zip(&base.0).map(|(a, b)| a / b).collect()))
    }

    /// The figure below which this share of them is (0.5 is the median); 0 of none.
    pub(crate) fn percentile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let Some(last) = sorted.len().checked_sub(1) else {
            return 0.0;
        };
        // Between two, as much of each as they are near.
        #[expect(clippy::cast_precision_loss, reason = "there are not so many")]
        let place = last as f64 * share.clamp(0.0, 1.0);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is an index"
        )]
        let (low, high) = (place.floor() as usize, place.ceil() as usize);
        sorted[low] + (sorted[high] - sorted[low]) * place.fract()
    }
}

/// The median, and the range where there are several.
impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [] => f.write_str("–"),
            [one] => f.write_str(&shown(*one)),
            _ => {
                let (low, high) = (self.percentile(0.0), self.percentile(1.0));
                let median = shown(self.percentile(0.5));
                write!(f, "{median} ({}–{})", shown(low), shown(high))
            }
        }
    }
}

/// Three digits or more.
fn shown(figure: f64) -> String {
    if figure.fract() == 0.0 || figure.abs() >= 100.0 {
        format!("{figure:.0}")
    } else if figure.abs() >= 10.0 {
        format!("{figure:.1}")
    } else {
        format!("{figure:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_show_their_range() {
        assert_eq!(Figures(vec![]).to_string(), "–");
        assert_eq!(Figures(vec![5.0]).to_string(), "5");
        assert_eq!(
            Figures(vec![3.25, 1.5, 123.4]).to_string(),
            "3.25 (1.50–123)"
        );
        assert_eq!(
            Figures(vec![10.0, 20.5]).to_string(),
            "15.2 (10–20.5)",
            "of two, the middle"
        );
    }

    #[test]
    fn a_ratio_is_of_each_run() {
        let (operator, floor) = (Figures(vec![4.0, 9.0]), Figures(vec![2.0, 3.0]));
        assert_eq!(operator.over(&floor), Some(Figures(vec![2.0, 3.0])));
        assert_eq!(operator.over(&Figures(vec![1.0])), None);
        assert_eq!(operator.over(&Figures(vec![0.0, 1.0])), None);
    }

    #[test]
    fn percentiles() {
        let all = Figures((0..=100).map(f64::from).collect());
        assert!((all.percentile(0.99) - 99.0).abs() < 1e-9);
        assert!(Figures(vec![]).percentile(0.5).abs() < 1e-9);
    }
}
