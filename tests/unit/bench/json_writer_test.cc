// SPDX-License-Identifier: Apache-2.0
#include "tools/outrigger-bench/json_writer.h"

#include <limits>

#include <gtest/gtest.h>

namespace outrigger::bench {
namespace {

TEST(JsonWriter, ObjectsAndArraysNest) {
    JsonWriter json;
    json.begin_object();
    json.text("name", "a");
    json.begin_array("rates");
    json.number({}, 1.5);
    json.number({}, 2);
    json.end_array();
    json.begin_object("inner");
    json.boolean("good", true);
    json.null("bad");
    json.end_object();
    json.integer("last", UINT64_MAX);
    json.end_object();

    EXPECT_EQ(json.take(),
              "{\n"
              "  \"name\": \"a\",\n"
              "  \"rates\": [\n"
              "    1.5,\n"
              "    2\n"
              "  ],\n"
              "  \"inner\": {\n"
              "    \"good\": true,\n"
              "    \"bad\": null\n"
              "  },\n"
              "  \"last\": 18446744073709551615\n"
              "}\n");
}

TEST(JsonWriter, EmptyObjectHasNoLines) {
    JsonWriter json;
    json.begin_object();
    json.end_object();

    EXPECT_EQ(json.take(), "{}\n");
}

TEST(JsonWriter, StringsAreEscaped) {
    EXPECT_EQ(json_string("a\"b\\c\nd\x01\x7f"), R"("a\"b\\c\u000ad\u0001\u007f")");
    EXPECT_EQ(json_string("käse"), "\"käse\"");
    EXPECT_EQ(json_string(""), "\"\"");
}

TEST(JsonWriter, WhatIsNoNumberIsNull) {
    JsonWriter json;
    json.begin_object();
    json.number("a", std::numeric_limits<double>::quiet_NaN());
    json.number("b", std::numeric_limits<double>::infinity());
    json.end_object();

    EXPECT_EQ(json.take(), "{\n  \"a\": null,\n  \"b\": null\n}\n");
}

}  // namespace
}  // namespace outrigger::bench
