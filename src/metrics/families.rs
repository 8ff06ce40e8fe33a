//! Metrics whose values are counted elsewhere, in the form that the encoder wants.

use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

/// A metric that is being filled; labels are given in the order of their names.
pub struct Family(MetricFamily);

type Labels<'a> = &'a [(&'a str, &'a str)];

impl Family {
    pub fn counter(name: &str, help: &str) -> Self {
        Self::new(name, help, MetricType::COUNTER)
    }

    pub fn gauge(name: &str, help: &str) -> Self {
        Self::new(name, help, MetricType::GAUGE)
    }

    pub fn histogram(name: &str, help: &str) -> Self {
        Self::new(name, help, MetricType::HISTOGRAM)
    }

    fn new(name: &str, help: &str, kind: MetricType) -> Self {
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        Self(family)
    }

    /// Adds the value for these labels of a counter or a gauge.
    pub fn add(&mut self, labels: Labels<'_>, value: f64) {
        let mut metric = labelled(labels);
        if self.0.get_field_type() == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        self.0.mut_metric().push(metric);
    }

    /// Adds the value for these labels of a histogram: for each upper bound how many lie between it and the
    /// one before; the last number has no bound.
    pub fn add_histogram(
        &mut self,
        labels: Labels<'_>,
        bounds: impl Iterator<Item = f64>,
        numbers: &[u64],
        sum: f64,
    ) {
        let mut histogram = Histogram::default();
        let mut count = 0;
        let bucket = |(bound, number): (f64, &u64)| {
            count += number;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound);
            bucket.set_cumulative_count(count);
            bucket
        };
        histogram.set_bucket(bounds.zip(numbers).map(bucket).collect());
        histogram.set_sample_count(numbers.iter().sum());
        histogram.set_sample_sum(sum);
        let mut metric = labelled(labels);
        metric.set_histogram(histogram);
        self.0.mut_metric().push(metric);
    }

    pub fn done(self) -> MetricFamily {
        self.0
    }
}

fn labelled(labels: Labels<'_>) -> Metric {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    Metric::from_label(labels.iter().map(pair).collect())
}
