// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <iterator>
#include <string>

#include <outrigger_control.pb.h>

#include "vhost-user-backend/control/message_frame.h"

#include "tests/fuzz/seeds.h"

namespace outrigger::fuzz {
namespace {

namespace v1 = control::v1;

std::vector<uint8_t> script(uint8_t piece_bytes, const std::string& stream) {
    std::vector<uint8_t> out{piece_bytes};
    std::ranges::copy(stream, std::back_inserter(out));
    return out;
}

std::string every_command() {
    std::string stream;
    v1::Request request;
    request.set_device("blk0");
    request.mutable_describe();
    stream += control::frame(request);
    request.mutable_set_log_level()->set_level("debug");
    stream += control::frame(request);
    request.mutable_pause();
    stream += control::frame(request);
    request.mutable_resume();
    stream += control::frame(request);
    request.mutable_resize()->set_size_bytes(uint64_t{1} << 40);
    stream += control::frame(request);
    request.mutable_set_read_only()->set_read_only(true);
    stream += control::frame(request);
    request.mutable_set_cache()->set_cache(v1::WRITE_THROUGH);
    stream += control::frame(request);
    request.mutable_set_limits()->mutable_limits()->mutable_bytes()->set_per_second(UINT64_MAX);
    request.mutable_set_limits()->set_group("g");
    stream += control::frame(request);
    request.mutable_set_error_policy()->set_policy(v1::STOP_ON_FULL);
    stream += control::frame(request);
    request.mutable_fill()->set_run(true);
    request.mutable_fill()->set_bytes_per_second(1);
    stream += control::frame(request);
    request.mutable_swap_image()->set_label("other.img");
    return stream + control::frame(request);
}

}  // namespace

void add_control_seeds(Seeds& seeds) {
    seeds["control-stream/every-command-byte-by-byte"] = script(0, every_command());
    seeds["control-stream/every-command-at-once"] = script(255, every_command());
    seeds["control-stream/empty-messages"] = script(1, std::string(5, '\0'));
    seeds["control-stream/no-length"] = script(2, "\xff\xff\xff\xff\xff\xff");
    seeds["control-stream/too-long"] = script(0, "\x81\x08rest");
    seeds["control-stream/no-utf8"] = script(7, "\x04\x0a\x02\xff\xfe");
    seeds["control-stream/unknown-field"] = script(7, std::string("\x03\xc2\x3e\x00", 4));
}

}  // namespace outrigger::fuzz
