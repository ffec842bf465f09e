// Everything that the package has, for measuring it.
export * from "sluiceway-client";
export * from "sluiceway-client/react";
