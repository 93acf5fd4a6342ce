// SPDX-License-Identifier: Apache-2.0
/// Fuzz target: the arguments of FUSE requests, as any guest may write them, and the sections of a
/// share's state. What a parser gives is complete and within the bytes that it was given: names are
/// single components, texts end in a NUL, sizes are those that were promised.
#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "vhost-user-backend/base/error.h"

#include "devices/fs/fs_server.h"
#include "devices/fs/fs_state.h"
#include "devices/fs/fuse_request.h"
#include "tests/fuzz/target.h"

namespace outrigger::fuzz {
namespace {

using fs::Bytes;
using fs::Errno;

void expect_component(const fs::Name& name) {
    const std::string_view text = name.view();
    OUTRIGGER_ASSERT(!text.empty() && text != "." && text != ".." && text.size() <= 255);
    OUTRIGGER_ASSERT(text.find('/') == std::string_view::npos);
    OUTRIGGER_ASSERT(std::strlen(name.c_str()) == text.size());
}

Errno number_of(Errno error) {
    return error;
}

Errno number_of(fs::Malformed error) {
    return error.error;
}

template <class T, class Error>
bool came(const Result<T, Error>& result) {
    OUTRIGGER_ASSERT(result.has_value() || number_of(result.error()) > 0);
    return result.has_value();
}

void expect_extensions(const fs::Extensions& extensions, const fs::RequestForm& form, Bytes body) {
    OUTRIGGER_ASSERT(!extensions.group || form.supplementary_group);
    OUTRIGGER_ASSERT(!extensions.security || form.security_context);
    if (extensions.security) {
        OUTRIGGER_ASSERT(std::strlen(extensions.security->name) > 0);
        OUTRIGGER_ASSERT(extensions.security->value.size() <= body.size());
    }
}

void parse_creations(Bytes body, const fs::RequestForm& form) {
    if (const auto wish = fs::parse_mkdir(body, form); came(wish)) {
        expect_component(wish->name);
        expect_extensions(wish->extensions, form, body);
    }
    if (const auto wish = fs::parse_mknod(body, form); came(wish)) {
        expect_component(wish->name);
    }
    if (const auto wish = fs::parse_create(body, form); came(wish)) {
        expect_component(wish->name);
    }
    if (const auto wish = fs::parse_tmpfile(body, form); came(wish)) {
        expect_extensions(wish->extensions, form, body);
    }
    if (const auto wish = fs::parse_symlink(body, form); came(wish)) {
        expect_component(wish->name);
        const size_t bytes = std::strlen(wish->target);
        OUTRIGGER_ASSERT(bytes > 0 && bytes < 4096);
    }
}

void parse_names(Bytes body) {
    if (const auto name = fs::parse_name(body); came(name)) {
        expect_component(*name);
        OUTRIGGER_ASSERT(name->view().size() + 1 == body.size());
    }
    for (const bool has_flags : {false, true}) {
        if (const auto wish = fs::parse_rename(body, has_flags); came(wish)) {
            expect_component(wish->from);
            expect_component(wish->to);
            OUTRIGGER_ASSERT(wish->flags < 8 && (has_flags || wish->flags == 0));
        }
    }
    if (const auto wish = fs::parse_link(body); came(wish)) {
        expect_component(wish->name);
    }
}

void parse_the_rest(Bytes body, const fs::RequestForm& form) {
    if (const auto wish = fs::parse_setxattr(body, form); came(wish)) {
        OUTRIGGER_ASSERT(wish->value.size() <= 65'536 && std::strlen(wish->name) <= 255);
    }
    (void)came(fs::parse_getxattr(body));
    (void)came(fs::parse_removexattr(body));
    (void)came(fs::parse_ioctl(body));
    if (const auto init = fs::parse_init(body); came(init)) {
        if (const auto answer = fs::negotiate({}, *init); came(answer)) {
            OUTRIGGER_ASSERT((answer->flags & ~init->flags) == 0);
            OUTRIGGER_ASSERT(answer->minor <= init->minor);
        }
    }
    if (body.size() >= sizeof(fs::InHeader)) {
        fs::InHeader header{};
        std::memcpy(&header, body.data(), sizeof header);
        if (const auto parsed = fs::parse_header(header, body.size()); came(parsed)) {
            OUTRIGGER_ASSERT(parsed->body_bytes + sizeof header <= body.size());
            OUTRIGGER_ASSERT(parsed->extension_bytes <= parsed->body_bytes);
        }
    }
}

/// The nodes of a state, of both versions, and those that were forgotten: what can be read is
/// written again as it was.
void read_state(Bytes body) {
    if (const auto forgotten = fs::SavedNodes::parse(body, fs::SavedNodes::Kind::kForgotten)) {
        auto again = fs::SavedNodes(fs::SavedNodes::Kind::kForgotten);
        forgotten->for_each([&](const fs::SavedNode& node) {
            OUTRIGGER_ASSERT(fs::is_beneath(node.path) && node.lookups == 0);
            again.add(node);
            return true;
        });
        OUTRIGGER_ASSERT(again.all() == forgotten->all());
    }
    auto first = fs::write_fs_state({});
    first[1].version = 1;
    first[1].bytes.assign(body.begin(), body.end());
    if (const auto state = fs::read_fs_state(first)) {
        const auto again = fs::read_fs_state(fs::write_fs_state(*state));
        OUTRIGGER_ASSERT(again && *again == *state);
    }
    const size_t half = body.size() / 2;
    auto sections = fs::write_fs_state({});
    sections[1].bytes.assign(body.begin(), body.begin() + static_cast<ptrdiff_t>(half));
    sections[2].bytes.assign(body.begin() + static_cast<ptrdiff_t>(half), body.end());
    if (const auto state = fs::read_fs_state(sections)) {
        OUTRIGGER_ASSERT(fs::write_fs_state(*state) == sections);
    }
}

}  // namespace
}  // namespace outrigger::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace outrigger;
    if (size == 0) {
        return 0;
    }
    // A copy of its own size, so that a sanitizer sees every byte beyond.
    const auto copy = std::make_unique<std::byte[]>(size - 1);
    if (size > 1) {
        std::memcpy(copy.get(), data + 1, size - 1);
    }
    const fs::Bytes body(copy.get(), size - 1);
    const fs::RequestForm form{.security_context = (data[0] & 1) != 0,
                               .supplementary_group = (data[0] & 2) != 0,
                               .long_setxattr = (data[0] & 4) != 0};
    fuzz::parse_creations(body, form);
    fuzz::parse_names(body);
    fuzz::parse_the_rest(body, form);
    fuzz::read_state(body);
    return 0;
}
