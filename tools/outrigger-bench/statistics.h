// SPDX-License-Identifier: Apache-2.0
/// What many short rounds say together. The machines are noisy, so the middle and the best count,
/// and two back ends are compared round by round.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

namespace outrigger::bench {

/// Of an even number of values: the mean of the two in the middle. 0 of none.
[[nodiscard]] inline double median(std::span<const double> values) {
    if (values.empty()) {
        return 0;
    }
    std::vector<double> sorted(values.begin(), values.end());
    std::ranges::sort(sorted);
    const size_t middle = sorted.size() / 2;
    return sorted.size() % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/// The largest value; 0 of none.
[[nodiscard]] inline double best(std::span<const double> values) {
    return values.empty() ? 0 : std::ranges::max(values);
}

/// `a` / `b`; 0 when there is nothing to divide by.
[[nodiscard]] inline double ratio(double a, double b) {
    return b > 0 ? a / b : 0;
}

/// The median of the rounds' own ratios a[i] / b[i], for as many rounds as both have.
[[nodiscard]] inline double median_ratio(std::span<const double> a, std::span<const double> b) {
    std::vector<double> ratios;
    for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
        ratios.push_back(ratio(a[i], b[i]));
    }
    return median(ratios);
}

}  // namespace outrigger::bench
