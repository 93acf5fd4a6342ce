// SPDX-License-Identifier: Apache-2.0
/// Replies of a daemon in words.
#pragma once

#include <string>

#include <outrigger_control.pb.h>

namespace outrigger::ctl {

/// Makes every text of a reply fit for a terminal: who listens at a socket need not be a daemon of
/// ours.
void make_printable(google::protobuf::Message& message);

/// A line for each device.
[[nodiscard]] std::string list_text(const control::v1::Program& program);

/// Everything.
[[nodiscard]] std::string show_text(const control::v1::Program& program);

/// One object, on several lines.
[[nodiscard]] std::string json_text(const control::v1::Reply& reply);

}  // namespace outrigger::ctl
