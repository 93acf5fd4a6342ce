// SPDX-License-Identifier: Apache-2.0
/// The image kind for qcow2 files and what they are based on, for reading only.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "devices/blk/image.h"
#include "devices/blk/io_engine_kind.h"
#include "devices/blk/qcow2/image_chain.h"
#include "devices/blk/qcow2/qcow2_memory.h"
#include "devices/blk/thread_engine.h"

namespace outrigger::blk {

struct Qcow2ImageOptions {
    ImageChainOptions chain{};
    IoEngineKind engine = IoEngineKind::kAuto;
    /// Block size to offer; 512 when not given. A power of two, 512 to 65536.
    std::optional<uint32_t> block_bytes{};
};

class Qcow2Image final : public Image {
  public:
    /// Opens, locks and examines all files. Every error is one line that says what to do.
    [[nodiscard]] static Result<std::unique_ptr<Qcow2Image>> open(const Qcow2ImageOptions& options);

    [[nodiscard]] const ImageProperties& properties() const override { return properties_; }

    [[nodiscard]] Result<std::unique_ptr<ImageQueue>> open_queue(Worker& worker,
                                                                 uint32_t requests_max) override;

  private:
    Qcow2Image(std::vector<ImageLayer> layers,
               const ImageProperties& properties,
               IoEngineKind engine)
        : layers_(std::move(layers)), properties_(properties), engine_(engine) {}

    /// Started with the first queue, after the sandbox is closed: what a thread may do is inherited
    /// from its parent.
    [[nodiscard]] Result<IoThreadPool*> threads(size_t count);

    const std::vector<ImageLayer> layers_;
    const ImageProperties properties_;
    const IoEngineKind engine_;
    Qcow2Budget budget_;
    std::mutex mutex_;
    std::unique_ptr<IoThreadPool> threads_;  // guarded by mutex_
};

}  // namespace outrigger::blk
