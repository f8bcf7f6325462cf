// Only the rows in view are mounted: rows of one height, any number of them.

import { type ReadonlySignal, type Signal, useSignal } from "@preact/signals";
import {
  elementScroll,
  observeElementOffset,
  observeElementRect,
  type VirtualItem,
  Virtualizer,
} from "@tanstack/virtual-core";
import type { RefObject } from "preact";
import { useEffect, useMemo } from "preact/hooks";

const OVERSCAN = 5;

export interface Windowed {
  items: Signal<readonly VirtualItem[]>;
  height: Signal<number>;
  /** Bring a row into view, moving as little as needed. */
  show(index: number): void;
}

/** The rows of `count` to mount inside the scrolling element `frame`. */
export function useWindow(
  frame: RefObject<HTMLElement | null>,
  count: ReadonlySignal<number>,
  rowHeight: number,
): Windowed {
  const items = useSignal<readonly VirtualItem[]>([]);
  const height = useSignal(0);
  const rows = useMemo(() => {
    const update = (virtualizer: Virtualizer<HTMLElement, Element>) => {
      items.value = virtualizer.getVirtualItems();
      height.value = virtualizer.getTotalSize();
    };
    return new Virtualizer<HTMLElement, Element>({
      count: 0,
      getScrollElement: () => frame.current,
      estimateSize: () => rowHeight,
      overscan: OVERSCAN,
      observeElementRect,
      observeElementOffset,
      scrollToFn: elementScroll,
      onChange: update,
    });
  }, [frame, rowHeight, items, height]);

  useEffect(() => {
    const unmount = rows._didMount();
    const unsubscribe = count.subscribe((n) => {
      rows.setOptions({ ...rows.options, count: n });
      rows._willUpdate();
      rows.measure();
    });
    return () => {
      unsubscribe();
      unmount();
    };
  }, [rows, count]);

  return useMemo(
    () => ({
      items,
      height,
      show: (index: number) => rows.scrollToIndex(index, { align: "auto" }),
    }),
    [items, height, rows],
  );
}
