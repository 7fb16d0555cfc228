/** How long to wait between tries. */

const FIRST = 1000;
const LONGEST = 60_000;

/**
 * Twice as long after each failure, and never just as long as others wait: they would all come back at once.
 * @param {number} failures in a row, from 1
 * @param {() => number} [dice] a number from 0 to 1
 * @returns {number} milliseconds
 */
export function pauseAfter(failures, dice = Math.random) {
  const most = Math.min(LONGEST, FIRST * 2 ** (failures - 1));
  return most * (0.5 + dice() / 2);
}
