// SPDX-License-Identifier: Apache-2.0
#include "tools/outrigger-bench/report.h"

#include <string>
#include <string_view>

#include <gtest/gtest.h>

namespace outrigger::bench {
namespace {

bool contains(const std::string& text, std::string_view part) {
    return text.find(part) != std::string::npos;
}

SideReport side(std::vector<double> rates, double cpu_seconds) {
    SideReport report{.socket = "s", .pid = 7, .rates = std::move(rates)};
    report.counts.completed = 1000;
    report.counts.kicks = 500;
    report.counts.calls = 10;
    report.counts.latency.record(20);
    report.cpu_seconds = cpu_seconds;
    return report;
}

RunReport two_sides() {
    return {.own = OwnCost{.rate = 2e7, .nanoseconds_per_request = 50},
            .a = side({300, 100, 200}, 0.001),
            .b = side({100, 50, 100}, 0.004),
            .others_load = 0.25};
}

TEST(Report, JsonHoldsBothSidesAndTheirRatios) {
    const std::string json = report_json(BenchPlan{}, two_sides());

    EXPECT_TRUE(contains(json, "\"ratio_median\": 2,"));
    EXPECT_TRUE(contains(json, "\"ratio_of_bests\": 3,"));
    EXPECT_TRUE(contains(json, "\"ratio_cpu\": 0.25"));
    EXPECT_TRUE(contains(json, "\n  \"a\": {"));
    EXPECT_TRUE(contains(json, "\n  \"b\": {"));
    EXPECT_TRUE(contains(json, "\"rate_best\": 300"));
    EXPECT_TRUE(contains(json, "\"rate_median\": 200"));
    EXPECT_TRUE(contains(json, "\"cpu_seconds_per_million\": 1,"));
    EXPECT_TRUE(contains(json, "\"cpu_seconds_per_million\": 4,"));
    EXPECT_TRUE(contains(json, "\"kicks_per_request\": 0.5"));
    EXPECT_TRUE(contains(json, "\"calls_per_request\": 0.01"));
    EXPECT_TRUE(contains(json, "\"p99_9\": 20"));
    EXPECT_TRUE(contains(json, "\"ns_per_request\": 50"));
    EXPECT_TRUE(contains(json, "\"others_load\": 0.25"));
}

TEST(Report, WhatTookNoTimeHasNoLatency) {
    RunReport report = two_sides();
    report.b.reset();
    report.a.counts.latency = {};

    EXPECT_TRUE(contains(report_json(BenchPlan{}, report), "\"latency_ns\": null"));
    EXPECT_FALSE(contains(report_text(BenchPlan{}, report), "latency"));
}

TEST(Report, NamesHaveNoBytes) {
    const BenchPlan plan{.workload = WorkloadKind::kFs, .access = Access::kGetattr};

    const std::string json = report_json(plan, two_sides());

    EXPECT_TRUE(contains(json, "\"rw\": \"getattr\""));
    EXPECT_TRUE(contains(json, "\"bytes_per_second_median\": null"));
    EXPECT_FALSE(contains(report_text(plan, two_sides()), "MiB/s"));
}

TEST(Report, OneSideHasNoRatio) {
    RunReport report = two_sides();
    report.b.reset();

    const std::string json = report_json(BenchPlan{}, report);

    EXPECT_FALSE(contains(json, "ratio"));
    EXPECT_FALSE(contains(json, "\"b\""));
    EXPECT_FALSE(contains(report_text(BenchPlan{}, report), "ratio"));
}

TEST(Report, UnknownProcessorTimeIsNull) {
    RunReport report = two_sides();
    report.b->pid.reset();

    const std::string json = report_json(BenchPlan{}, report);

    EXPECT_TRUE(contains(json, "\"cpu_seconds\": null"));
    EXPECT_TRUE(contains(json, "\"ratio_cpu\": null"));
}

TEST(Report, SystemCallsSayWhichWereCounted) {
    BenchPlan plan;
    plan.system_calls = true;
    RunReport report = two_sides();
    report.a.system_calls = CallCount{.scope = CallScope::kReadsAndWrites, .calls = 30};
    report.a.system_calls_requests = 10;

    const std::string json = report_json(plan, report);

    EXPECT_TRUE(contains(json, "\"system_calls_per_request\": 3,"));
    EXPECT_TRUE(contains(json, "\"system_calls_scope\": \"reads and writes\""));
    EXPECT_TRUE(contains(json, "\"system_calls_per_request\": null"));
    EXPECT_TRUE(contains(report_text(plan, report), "system calls 3.0000 (reads and writes only)"));
    EXPECT_TRUE(contains(report_text(plan, report), "system calls unknown"));
}

TEST(Report, TextEndsWithTheRatios) {
    const std::string text = report_text(BenchPlan{}, two_sides());

    const std::string last = text.substr(text.rfind('\n', text.size() - 2) + 1);
    EXPECT_EQ(last,
              "ratio A/B  median of the rounds 2.00  of the medians 2.00  of the bests 3.00  of "
              "the processor time 0.25\n");
}

TEST(Report, FailedRequestsStandOut) {
    RunReport report = two_sides();
    report.a.counts.failed = 3;

    EXPECT_TRUE(contains(report_text(BenchPlan{}, report), "FAILED: 3 of 1000 requests"));
    EXPECT_TRUE(contains(report_json(BenchPlan{}, report), "\"failed\": 3"));
}

TEST(Report, LostBackEndIsToldInJson) {
    const std::string json = failure_json(BenchPlan{}, "A (s): \"gone\"");

    EXPECT_TRUE(contains(json, "\"error\": \"A (s): \\\"gone\\\"\""));
    EXPECT_FALSE(contains(json, "rate"));
}

TEST(Report, JsonHoldsTheComplaint) {
    RunReport report = two_sides();
    EXPECT_TRUE(contains(report_json(BenchPlan{}, report), "\"complaint\": null"));
    report.complaint = "A: a lie";

    EXPECT_TRUE(contains(report_json(BenchPlan{}, report), "\"complaint\": \"A: a lie\""));
}

}  // namespace
}  // namespace outrigger::bench
