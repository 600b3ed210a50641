// The code of a remedy, to copy.

import { copyable } from "./copy.js";

copyable();
