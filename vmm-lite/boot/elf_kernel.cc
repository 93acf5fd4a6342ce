// SPDX-License-Identifier: Apache-2.0
#include "vmm-lite/boot/elf_kernel.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include <elf.h>

#include "vhost-user-backend/base/checked_math.h"

namespace outrigger::vmm {
namespace {

constexpr uint32_t kPvhEntryNote = 18;  // XEN_ELFNOTE_PHYS32_ENTRY
constexpr size_t kSegmentsMax = 64;
constexpr size_t kNotesMax = 256;
constexpr uint64_t kAddressMax = 2ULL << 30U;

std::unexpected<Error> bad(std::string what) {
    return failure(Error{.message = std::move(what)});
}

template <class T>
bool read_at(std::span<const std::byte> bytes, uint64_t at, T& out) {
    if (!range_fits<uint64_t>(at, sizeof(T), bytes.size())) {
        return false;
    }
    std::memcpy(&out, bytes.data() + at, sizeof(T));
    return true;
}

/// The entry that a note of Xen names, in a segment of notes.
std::optional<uint32_t> pvh_entry_in(std::span<const std::byte> notes) {
    uint64_t at = 0;
    for (size_t i = 0; i < kNotesMax; ++i) {
        Elf64_Nhdr note{};
        if (!read_at(notes, at, note)) {
            return std::nullopt;
        }
        const uint64_t name_at = at + sizeof(note);
        const uint64_t value_at = name_at + align_up<uint64_t>(note.n_namesz, 4).value_or(0);
        const uint64_t next = value_at + align_up<uint64_t>(note.n_descsz, 4).value_or(0);
        uint32_t name = 0;
        uint32_t entry = 0;
        if (note.n_type == kPvhEntryNote && note.n_namesz == 4 && note.n_descsz >= 4 &&
            read_at(notes, name_at, name) && std::memcmp(&name, "Xen", 4) == 0 &&
            read_at(notes, value_at, entry)) {
            return entry;
        }
        at = next;
    }
    return std::nullopt;
}

}  // namespace

Result<ElfKernel> parse_elf_kernel(std::span<const std::byte> bytes) {
    Elf64_Ehdr header{};
    if (!read_at(bytes, 0, header) || std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 ||
        header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_machine != EM_X86_64) {
        return bad("has no ELF file for x86-64 as its payload");
    }
    if (header.e_phentsize != sizeof(Elf64_Phdr) || header.e_phnum == 0 ||
        header.e_phnum > kSegmentsMax) {
        return bad("has an ELF file without segments as its payload");
    }
    ElfKernel kernel;
    kernel.lowest = UINT64_MAX;
    kernel.file_end = header.e_shoff + uint64_t{header.e_shentsize} * header.e_shnum;
    for (size_t i = 0; i < header.e_phnum; ++i) {
        Elf64_Phdr program{};
        if (!read_at(bytes, header.e_phoff + i * sizeof(program), program) ||
            !range_fits<uint64_t>(program.p_offset, program.p_filesz, bytes.size())) {
            return bad("has an ELF file as its payload that is cut short");
        }
        const auto content = bytes.subspan(program.p_offset, program.p_filesz);
        if (program.p_type == PT_NOTE && !kernel.pvh_entry) {
            kernel.pvh_entry = pvh_entry_in(content);
        }
        if (program.p_type != PT_LOAD || program.p_memsz == 0) {
            continue;
        }
        if (program.p_memsz < program.p_filesz || program.p_paddr > kAddressMax ||
            program.p_memsz > kAddressMax) {
            return bad("has an ELF file as its payload with an impossible segment");
        }
        kernel.segments.push_back({.offset = program.p_offset,
                                   .file_bytes = program.p_filesz,
                                   .address = program.p_paddr,
                                   .memory_bytes = program.p_memsz});
        kernel.lowest = std::min(kernel.lowest, program.p_paddr);
        kernel.highest = std::max(kernel.highest, program.p_paddr + program.p_memsz);
        kernel.file_end = std::max(kernel.file_end, program.p_offset + program.p_filesz);
    }
    if (kernel.segments.empty()) {
        return bad("has an ELF file without segments as its payload");
    }
    if (kernel.file_end > bytes.size()) {
        return bad("has an ELF file as its payload that is cut short");
    }
    return kernel;
}

}  // namespace outrigger::vmm
