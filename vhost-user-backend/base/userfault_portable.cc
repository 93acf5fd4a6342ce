// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/base/userfault.h"

namespace outrigger {

Result<std::unique_ptr<UserfaultSource>> open_userfault_source() {
    return failure(Error{.message = "this build has no userfaultfd"});
}

}  // namespace outrigger
